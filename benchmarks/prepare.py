"""Time and memory of preparation: `python benchmarks/prepare.py [--minutes 1 5 10] [--size 256] [--clip VIDEO] [--sound WAV] [--json FILE]`

Without --clip the shipped sample is played to and fro until it lasts so many minutes, and every step of `prepare` (scan, frames with landmarks, sound, labels,
head pose, speech features) runs on it in a process of its own. Reported for each step: seconds on the clock, seconds of CPU, and the highest memory while it ran,
as the system counts it (resident) and without the pages of files that are merely mapped (own). With --clip that video's longest shot is measured once. (Linux: memory is read from /proc.)"""
import argparse, json, os, resource, subprocess, sys, tempfile, threading, time, warnings
from pathlib import Path

class Meter:
    "Clock, CPU and highest memory of named steps"
    def __init__(self):
        self.rows, self.step, self.stop = {}, 'start', threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while not self.stop.wait(.05): self.look()

    def look(self):
        text = Path('/proc/self/status').read_text()
        field = lambda k: int(text.split(k+':')[1].split()[0])/1024
        row = self.rows.setdefault(self.step, dict(resident_mb=0., own_mb=0.))
        row['resident_mb'], row['own_mb'] = max(row['resident_mb'], field('VmRSS')), max(row['own_mb'], field('RssAnon'))

    def run(self, name, work, *args, **kwargs):
        "Do one step under its name; steps may lie inside others, which then go on"
        outer, self.step, clock, cpu = self.step, name, time.perf_counter(), time.process_time()
        try: return work(*args, **kwargs)
        finally:
            self.look()
            self.rows[name] |= dict(seconds=time.perf_counter()-clock, cpu_seconds=time.process_time()-cpu)
            self.step = outer

def sample_for(minutes, path):
    "The sample, to and fro, without a cut"
    import numpy as np
    from syncgaussian.clip import load_sound, read_video, write_video
    from syncgaussian.samples import sample_clip_path
    frames, wave = list(read_video(sample_clip_path())[0]), load_sound(sample_clip_path())
    n = round(minutes*60*25); there = [*range(len(frames)), *range(len(frames)-2, 0, -1)]
    return write_video(path, (frames[there[k%len(there)]] for k in range(n)), sound=(np.resize(wave, n*640), 16000), synthetic=False)

def measure(video, out, size, sound=None):
    "All steps of `prepare` on one video"
    from syncgaussian.clip import Manifest, prepare_clip, steps
    from syncgaussian.preparation import add_features, add_pose
    meter, step, scan = Meter(), Manifest.step, steps.scan_video
    Manifest.step = lambda m, name, settings, work: step(m, name, settings, lambda: meter.run(name, work))
    steps.scan_video = lambda *a, **k: meter.run('scan', scan, *a, **k)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        clip = meter.run('other', prepare_clip, video, out, size=size, sound=sound, progress=False)
        meter.run('pose', add_pose, clip)
        meter.run('features', add_features, clip)
    meter.stop.set()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return dict(video=Path(video).name, seconds_of_video=clip.n_frames/clip.fps, size=size, cpu_seconds=used.ru_utime+used.ru_stime,
                times_duration=(used.ru_utime+used.ru_stime)*clip.fps/clip.n_frames, peak_mb=used.ru_maxrss/1024,
                own_peak_mb=max(r['own_mb'] for r in meter.rows.values()), steps=meter.rows)

def rounded(x):
    if isinstance(x, dict): return {k:rounded(v) for k,v in x.items()}
    return round(x, 2 if x<20 else 1) if isinstance(x, float) else x

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--minutes', type=float, nargs='+', default=[1, 5, 10]); p.add_argument('--size', type=int, default=256)
    p.add_argument('--clip'); p.add_argument('--sound'); p.add_argument('--keep', help='folder for the prepared clip (with --clip)'); p.add_argument('--json'); p.add_argument('--one', nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one:
        print(json.dumps(rounded(measure(*a.one, a.size, a.sound)))); sys.exit()
    rows = []
    for minutes in [None] if a.clip else a.minutes:
        with tempfile.TemporaryDirectory() as d:
            video = a.clip or sample_for(minutes, Path(d)/f'sample_{minutes:g}min.mp4')
            extra = ['--sound', a.sound] if a.sound else []
            done = subprocess.run([sys.executable, __file__, '--one', str(video), a.keep or d+'/clip', '--size', str(a.size), *extra], capture_output=True, text=True)
            if done.returncode: sys.exit(f'{video}: {done.stderr.strip().splitlines()[-1]}')
        rows.append(json.loads(done.stdout.strip().splitlines()[-1])); r = rows[-1]
        print(f"{r['video']}: {r['seconds_of_video']:.0f} s at {r['size']} px, {r['cpu_seconds']:.0f} s of CPU ({r['times_duration']:.2f} x), "
              f"peak {r['peak_mb']:.0f} MB, own {r['own_peak_mb']:.0f} MB", flush=True)
        for k,s in r['steps'].items():
            if 'cpu_seconds' in s: print(f"  {k:9} {s['seconds']:7.1f} s  {s['cpu_seconds']:7.1f} s CPU  {s['resident_mb']:6.0f} MB  {s['own_mb']:6.0f} MB own", flush=True)
    if a.json:
        tmp = f'{a.json}.{os.getpid()}'; Path(tmp).write_text(json.dumps(rows, indent=1)); os.replace(tmp, a.json)
