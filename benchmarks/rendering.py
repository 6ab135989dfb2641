"""How fast a trained head draws: one by one and in batches, with the copy to the host, and with the mp4 written.

    python benchmarks/rendering.py HEAD                              # the table for this machine
    python benchmarks/rendering.py HEAD --film 3000                  # also films of 3000 frames, and each of their stages alone
    python benchmarks/rendering.py HEAD --speech FILE --json out.json  # also synthesize, listening and all

Encoder, motion fields, rasteriser and fusion are in every number; the frozen speech models are not, except in the last row. `plain` calls the head as training does, without `HeadRenderer`.
The stages of a film run at the same time, so the slowest limits it; `cpu` are processor milliseconds a frame, all threads together, and their sum over the cores is the other limit.
"""
import argparse, json, os, tempfile, time
from collections import deque
from pathlib import Path
import numpy as np
import torch
import av
from syncgaussian.clip import load_sound, read_frames, write_video
from syncgaussian.synthesis import Drive, render_frames, synthesize
from syncgaussian.synthesis.drive import HeadRenderer, box_views, planes_from_rgb, there_and_back
from syncgaussian.synthesis.film import backdrop_reader, write_film
from syncgaussian.training import load_head, pick_device


def clock(f, device, seconds):
    "Seconds of one call, after some that do not count"
    sync = torch.cuda.synchronize if device!='cpu' else (lambda: None)
    for _ in range(3): f()
    sync(); n, began = 0, time.perf_counter()
    while n < 3 or time.perf_counter()-began < seconds: f(); n += 1
    sync()
    return (time.perf_counter()-began)/n


def measure(head, batch, device, seconds):
    "One row: frames a second of three ways to draw"
    x0, y0, x1, y1 = head.box
    g = torch.Generator(device).manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=g, device=device)
    hu, ave, still = randn(batch, head.cfg.window, *head.hu_shape), randn(batch, head.cfg.window, 1, 512), torch.zeros(batch, device=device)
    scene = torch.arange(batch, device=device)%len(head.viewmats)
    backdrop = torch.zeros(batch, y1-y0, x1-x0, 3, dtype=torch.uint8, device=device)
    draw = HeadRenderer(head, batch)
    camera, e = head.scene_camera(scene), head.expression[scene]
    ways = dict(drawn=lambda: draw(hu, ave, still, scene, backdrop), on_the_host=lambda: draw(hu, ave, still, scene, backdrop).cpu(), plain=lambda: head(camera, hu, ave, e, backdrop/255))
    with torch.no_grad(): return dict(batch=batch, **{k:round(batch/clock(f, device, seconds), 1) for k, f in ways.items()})


def stage(name, work, n):
    "One stage of a film alone: frames a second and processor time a frame"
    def spent(): t = os.times(); return t.user+t.system
    began, cpu = time.perf_counter(), spent()
    work()
    seconds, cpu = time.perf_counter()-began, spent()-cpu
    return dict(stage=name, frames=n, frames_a_second=round(n/seconds, 1), cpu_ms_a_frame=round(1000*cpu/n, 3))


def film(head, device, batch, n, presets):
    "A film of n frames and its stages: backdrops decoded; drawn and brought to the host; compressed; all of it at once"
    sync = torch.cuda.synchronize if device!='cpu' else (lambda: None)
    g, planes = torch.Generator(device).manual_seed(0), device!='cpu'
    hu, ave = (torch.randn(n, *s, generator=g, device=device) for s in (head.hu_shape, (1, 512)))
    drive = Drive(hu, ave, there_and_back(n, len(head.viewmats)))
    sound = (0.1*np.random.default_rng(0).standard_normal(n*640).astype(np.float32), 16000)
    draw = HeadRenderer(head, batch)
    def decode(planes):
        read = backdrop_reader(head, planes=planes)
        for k in range(0, n, batch): read(drive.scene[k:k+batch])
    def drawn(m=n, reader=None):
        return render_frames(head, drive._replace(scene=drive.scene[:m]), reader or backdrop_reader(head, planes=planes), draw=draw)
    frames = np.concatenate(list(drawn(min(n, 500))))
    still = frames[:batch]
    def drawing(): deque(drawn(reader=lambda idx: still[:len(idx)]), maxlen=0); sync()
    rows = [stage(f'decode, {k}', lambda: decode(k=='planes'), n) for k in ('planes', 'rgb')] + [stage('draw, to the host', drawing, n)]
    pixels = frames if frames.ndim==4 else np.stack([av.VideoFrame.from_ndarray(f, format='yuv420p').to_ndarray(format='rgb24') for f in frames])
    images = [av.VideoFrame.from_ndarray(f, format='rgb24') for f in pixels]
    rows += [stage('RGB to planes, PyAV', lambda: [i.reformat(format='yuv420p') for i in images], len(images))]
    box = torch.from_numpy(np.ascontiguousarray(box_views(pixels[:batch], head.box)[0])).to(device)
    planes_from_rgb(box); sync()
    rows += [stage('RGB to planes of the box, on the device', lambda: [planes_from_rgb(box) for _ in range(20)]+[sync()], 20*len(box))]
    ready = np.stack([i.to_ndarray(format='yuv420p') for i in images])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'out.mp4'
        for p in presets:
            rows.append(stage(f'compress, {p}', lambda: write_video(path, ready, preset=p), len(ready)) | dict(kbit_a_second=round(path.stat().st_size*8*25/1000/len(ready))))
            back = read_frames(path, np.arange(0, len(ready), 10)).astype(np.float32)
            rows[-1]['psnr'] = round(float(10*np.log10(255**2/((back-pixels[::10])**2).mean())), 2)
        for p in presets: rows.append(stage(f'film with sound, {p}', lambda: write_film(head, path, drive, sound=sound, batch=batch, preset=p), n))
    return rows


def with_video(head, speech, device, batch):
    "Frames a second of `synthesize`: listening, drawing, encoding, muxing"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        out = synthesize(head, speech, Path(folder)/'out.mp4', device=device, batch=batch, progress=False)
        seconds = time.perf_counter()-began
        n = len(load_sound(out))//640
    return dict(synthesize=str(Path(speech).name), batch=batch, frames=n, seconds=round(seconds, 2), frames_a_second=round(n/seconds, 1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('head'); p.add_argument('--device', default=pick_device(None)); p.add_argument('--batches', type=int, nargs='+', default=[1, 8, 16, 32])
    p.add_argument('--seconds', type=float, default=2., help='time for each number'); p.add_argument('--speech', help='sound file for the row with the mp4'); 
    p.add_argument('--film', type=int, metavar='N', help='frames of the film whose stages are measured'); p.add_argument('--presets', nargs='+', default=['ultrafast', 'superfast', 'veryfast', 'faster'])
    p.add_argument('--json', help='write the table there')
    a = p.parse_args()
    head = load_head(a.head, a.device)
    about = dict(device=torch.cuda.get_device_name() if a.device!='cpu' else 'cpu', cores=os.cpu_count(), threads=torch.get_num_threads(), torch=torch.__version__, size=head.size, box=head.box,
                 gaussians={b:len(getattr(head, b).means) for b in ('face', 'mouth')})
    print(about)
    rows = []
    print(f"{'batch':>6} {'drawn/s':>10} {'on the host/s':>14} {'plain/s':>10}")
    for b in a.batches:
        rows.append(measure(head, b, a.device, a.seconds)); r = rows[-1]
        print(f"{b:>6} {r['drawn']:>10} {r['on_the_host']:>14} {r['plain']:>10}", flush=True)
    if a.film:
        for r in film(head, a.device, max(a.batches), a.film, a.presets): rows.append(r); print(f"{r['stage']:>42} {r['frames_a_second']:>9}/s {r['cpu_ms_a_frame']:>9} ms cpu  " + ', '.join(f'{k} {r[k]}' for k in ('kbit_a_second', 'psnr') if k in r), flush=True)
    if a.speech: rows.append(with_video(head, a.speech, a.device, max(a.batches))); print(rows[-1])
    if a.json: Path(a.json).write_text(json.dumps(dict(about=about, rows=rows), indent=1))


if __name__=='__main__': main()
