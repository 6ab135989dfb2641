"""How long training takes and what it reaches: time and frames a second of each stage, memory, quality at parts of the schedule, and each measure for speed switched off in turn.

    python benchmarks/training.py CLIP --preset paper --set motion_frames=20000      # one run, scored on the held-out tenth at 10, 25, 50 and 100 %
    python benchmarks/training.py CLIP --rows full one_frame face_then_mouth --json out.json

Rows: `full` (as configured), `one_frame` (one frame a step, the ancestors' way), `half_batch`, `face_then_mouth` (branches in turn), `whole_lpips` (LPIPS on the whole head box in stage 3).
Scores compare uncompressed frames of the held-out tenth; the clip's own speech, poses, expressions and backdrop are given, as in the paper.
"""
import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from syncgaussian.clip import Clip
from syncgaussian.config import PRESETS, override
from syncgaussian.preparation import ensure_features, feature_names
from syncgaussian.scores.metrics import score_frames
from syncgaussian.synthesis.drive import Drive, render_frames
from syncgaussian.training import TrainingData, Trainer, init_head, pick_device

ROWS = dict(full={}, one_frame=dict(batch=1), half_batch=None, face_then_mouth=dict(together=False), whole_lpips=dict(lpips_patches=0))


def scores(head, clip, cfg, device):
    "PSNR, SSIM and LPIPS of the held-out frames"
    idx = clip.split(cfg.test_share)[1]
    hu, ave = (torch.as_tensor(np.asarray(clip.features(n), dtype=np.float32), device=device) for n in feature_names(cfg))
    frames = np.concatenate(list(render_frames(head, Drive(hu, ave, idx, rows=idx), clip.backdrop, batch=16)))
    found = score_frames(frames, clip.frames(idx), head_box=head.box, device=device)
    return {k:round(float(v), 4) for k, v in found.items()}


def timed(device, f, *args, **options):
    "(seconds, result), with the GPU waited for"
    wait = torch.cuda.synchronize if device!='cpu' else (lambda: None)
    wait()
    began = time.perf_counter()
    result = f(*args, **options)
    wait()
    return time.perf_counter()-began, result


def memory(device):
    "Largest memory so far, GiB"
    host = dict(host_gib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, 2))
    return host if device=='cpu' else host | dict(gpu_gib=round(torch.cuda.max_memory_allocated()/2**30, 2))


def run(clip, cfg, device, parts):
    "One row: seconds and frames a second a stage, memory, scores after parts of the schedule"
    if device!='cpu': torch.cuda.reset_peak_memory_stats()
    def load():
        data = TrainingData(clip, cfg, clip.split(cfg.test_share)[0], device)
        return Trainer(init_head(data, cfg), data, cfg)
    loading, trainer = timed(device, load)
    looks = {round(trainer.total*p) for p in parts}
    marks = sorted(looks | set(np.cumsum([trainer.steps[s] for s in trainer.stages]).tolist()))
    row, spent = dict(loading=round(loading, 2), stages={}, reached=[]), 0.
    for mark in marks:
        stage, done = trainer.stage[0], trainer.done
        seconds, _ = timed(device, trainer.run, until=mark, progress=False)
        spent += seconds
        s = row['stages'].setdefault(stage, dict(seconds=0., frames=0))
        s['seconds'] += seconds
        s['frames'] += (mark-done)*cfg.batch
        about = dict(share=round(mark/trainer.total, 3), seconds=round(spent, 1))
        if mark in looks: row['reached'].append(about | scores(trainer.head, clip, cfg, device))
    for s in row['stages'].values(): s |= dict(frames_a_second=round(s['frames']/s['seconds'], 1), seconds=round(s['seconds'], 1))
    return row | dict(training=round(spent, 1), **memory(device))


def report(name, row):
    "A line, and one for each look"
    stages = ', '.join(f"{k} {v['frames_a_second']} frames/s" for k, v in row['stages'].items())
    gpu = f", GPU {row['gpu_gib']} GiB" if 'gpu_gib' in row else ''
    print(f"{name}: loading {row['loading']} s, training {row['training']} s, {stages}, host {row['host_gib']} GiB{gpu}")
    for q in row['reached']: print('   ', q, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('clip')
    p.add_argument('--device', default=pick_device())
    p.add_argument('--preset', choices=PRESETS, default='paper' if torch.cuda.is_available() else 'course')
    p.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE')
    p.add_argument('--rows', nargs='+', default=['full'], choices=ROWS)
    p.add_argument('--parts', type=float, nargs='+', default=[.1, .25, .5, 1.])
    p.add_argument('--json', help='write the table there (after every row)')
    a = p.parse_args()
    clip, cfg, rows = Clip(a.clip), override(PRESETS[a.preset](), **dict(s.split('=', 1) for s in a.set)), {}
    ensure_features(clip, cfg, a.device)
    about = dict(device=torch.cuda.get_device_name() if a.device!='cpu' else 'cpu', threads=torch.get_num_threads(), torch=torch.__version__,
                 frames=clip.n_frames, size=clip.size, config=cfg.to_dict())
    for name in a.rows:
        changes = ROWS[name] if ROWS[name] is not None else dict(batch=max(1, cfg.batch//2))
        rows[name] = run(clip, override(cfg, **changes), a.device, a.parts)
        report(name, rows[name])
        if a.json: Path(a.json).write_text(json.dumps(dict(about=about, rows=rows), indent=1))


if __name__=='__main__': main()
