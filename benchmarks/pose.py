"""Head pose, rough and stable: `python benchmarks/pose.py [VIDEO or CLIP FOLDER ...] [--size 512] [--json FILE]`

Without arguments the shipped sample clip, whose true camera is known: focal length error, rotation error after one global alignment, jitter against the
truth's own. For any other clip: jitter of the rough and of the stable poses (RMS second difference; degrees and mm per frame^2) and their ratios, reprojection error of
the tracked rigid points in px at 512, frames whose pose is not a number or flips, seconds (of which CPU, preparation included), and the process's highest memory (each clip
in a process of its own). `sample` among the arguments stands for the sample clip; a video smaller than --size is prepared at its own height. The json also lists notes
and, for each clip, the worst frames with the reason."""
import argparse, json, os, resource, subprocess, sys, tempfile, time, warnings
from pathlib import Path

COLUMNS = dict(clip='', frames='d', size='d', focal='.0f', focal_error='+.1%', rough_error='.2f', stable_error='.2f', rough_turn='.3f', stable_turn='.3f',
               true_turn='.3f', turn_ratio='.2f', rough_shift='.2f', stable_shift='.2f', true_shift='.2f', shift_ratio='.2f', reprojection='.2f', bad='d',
               seconds='.1f', cpu_seconds='.0f', memory_mb='d', method='')

def open_clip(path, size, folder):
    "A prepared clip; a video is prepared first (a wav of the same name beside it is its sound)"
    from syncgaussian.clip import Clip, prepare_clip
    if path.is_dir(): return Clip(path)
    wav = path.with_suffix('.wav')
    return prepare_clip(path, Path(folder)/'clip', size=size, sound=wav if wav.is_file() else None, progress=False)

def worst_frames(clip, pose, n=5):
    "Frames that stand out, each with its reason"
    import numpy as np
    area = np.array([(clip.labels(k)[0]>=3).sum() for k in range(len(clip))], float)
    usual = np.median(np.stack([np.roll(area, k) for k in range(-3, 4)]), 0)
    error = np.nan_to_num(pose.reprojection if pose.reprojection is not None else np.zeros(len(clip)))*512/clip.size
    scores = {'no face': ~clip.found*9., 'head mask {:.1%} larger or smaller than its neighbours': abs(area/usual-1), 'reprojection {:.2f} px': error}
    limits = {'no face': 1, 'head mask {:.1%} larger or smaller than its neighbours': .02, 'reprojection {:.2f} px': 1}
    rank = sorted(((scores[w][k]/limits[w], k, w) for w in scores for k in range(len(clip))), reverse=True)[:n]
    return [dict(frame=int(k), reason=w.format(scores[w][k])) for s,k,w in rank if s>0]

def measure(path, size, truth):
    "One clip's numbers"
    import numpy as np
    from syncgaussian.pose import estimate_head_pose, pose_jitter
    from syncgaussian.pose.geometry import rotation_error
    with tempfile.TemporaryDirectory() as d, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if not Path(path).is_dir():
            from syncgaussian.clip import read_video
            size = min(size, read_video(path)[1].height//16*16)
        clip = open_clip(Path(path), size, d); began = time.perf_counter(); pose = estimate_head_pose(clip, save=False); seconds = time.perf_counter()-began
        worst = worst_frames(clip, pose); clip_notes = [n['text'] for n in clip.manifest.data.get('notes', [])]
    rough, stable = pose_jitter(pose.rough_viewmats), pose_jitter(pose.viewmats)
    bad = ~np.isfinite(pose.viewmats).all((1,2)) | (pose.viewmats[:,2,2]>=0) | (pose.viewmats[:,2,3]<=0)
    row = dict(clip=Path(path).stem, frames=len(pose), size=pose.size, focal=pose.focal, rough_turn=rough.rotation, stable_turn=stable.rotation,
               rough_shift=rough.translation, stable_shift=stable.translation, bad=int(bad.sum()), seconds=seconds, method=pose.method, notes=clip_notes+pose.notes, worst=worst,
               turn_ratio=stable.rotation/rough.rotation, shift_ratio=stable.translation/rough.translation, cpu_seconds=time.process_time(),
               reprojection=None if pose.reprojection is None else float(np.nanmedian(pose.reprojection)*512/pose.size),
               memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)
    if truth:
        from syncgaussian.samples import sample_truth
        t = sample_truth(); v = t['viewmats'].astype(float); own = pose_jitter(v)
        row.update(focal_error=pose.focal/float(t['focal'])-1, true_turn=own.rotation, true_shift=own.translation,
                   rough_error=float(np.median(rotation_error(pose.rough_viewmats, v))), stable_error=float(np.median(rotation_error(pose.viewmats, v))))
    return row

def table(rows):
    "Rows as a markdown table"
    cell = lambda row,k,f: '' if row.get(k) is None else format(row[k], f)
    return '\n'.join(['| '+' | '.join(COLUMNS)+' |', '|'+'---|'*len(COLUMNS)]+['| '+' | '.join(cell(r,k,f) for k,f in COLUMNS.items())+' |' for r in rows])

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('clips', nargs='*'); p.add_argument('--size', type=int, default=512); p.add_argument('--json'); p.add_argument('--one', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        out = measure(a.one, a.size, truth=a.one.endswith('sample.mp4'))
        print(json.dumps(out)); sys.exit()
    jobs = a.clips or ['sample']
    if 'sample' in jobs:
        from syncgaussian.samples import sample_clip_path
        jobs = [str(sample_clip_path()) if c=='sample' else c for c in jobs]
    rows = []
    for clip in jobs:
        done = subprocess.run([sys.executable, __file__, '--one', clip, '--size', str(a.size)], capture_output=True, text=True)
        if done.returncode: sys.exit(f'{clip}: {done.stderr.strip().splitlines()[-1]}')
        rows.append(json.loads(done.stdout.strip().splitlines()[-1])); print(table(rows[-1:]).splitlines()[-1] if len(rows)>1 else table(rows), flush=True)
    if a.json:
        tmp = f'{a.json}.{os.getpid()}'; Path(tmp).write_text(json.dumps(rows, indent=1)); os.replace(tmp, a.json)
