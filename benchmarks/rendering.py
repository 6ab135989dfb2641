"""How fast a trained head draws: one by one and in batches, with the copy to the host, and with the mp4 written.

    python benchmarks/rendering.py HEAD                              # the table for this machine
    python benchmarks/rendering.py HEAD --speech FILE --json out.json  # also synthesize, sound and all

Encoder, motion fields, rasteriser and fusion are in every number; the frozen speech models are not, except in the last row. `plain` calls the head as training does, without `HeadRenderer`.
"""
import argparse, json, os, tempfile, time
from pathlib import Path
import numpy as np
import torch
from syncgaussian.synthesis import HeadRenderer, synthesize
from syncgaussian.training import load_head


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


def with_video(head, speech, device, batch):
    "Frames a second of `synthesize`: listening, drawing, encoding, muxing"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        out = synthesize(head, speech, Path(folder)/'out.mp4', device=device, batch=batch, progress=False)
        seconds = time.perf_counter()-began
        from syncgaussian.clip import load_sound
        n = len(load_sound(out))//640
    return dict(synthesize=str(Path(speech).name), batch=batch, frames=n, seconds=round(seconds, 2), frames_a_second=round(n/seconds, 1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('head'); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu'); p.add_argument('--batches', type=int, nargs='+', default=[1, 8, 16, 32])
    p.add_argument('--seconds', type=float, default=2., help='time for each number'); p.add_argument('--speech', help='sound file for the row with the mp4'); p.add_argument('--json', help='write the table there')
    a = p.parse_args()
    head = load_head(a.head, a.device)
    about = dict(device=torch.cuda.get_device_name() if a.device!='cpu' else 'cpu', threads=torch.get_num_threads(), torch=torch.__version__, size=head.size, box=head.box,
                 gaussians={b:len(getattr(head, b).means) for b in ('face', 'mouth')})
    print(about)
    rows = []
    print(f"{'batch':>6} {'drawn/s':>10} {'on the host/s':>14} {'plain/s':>10}")
    for b in a.batches:
        rows.append(measure(head, b, a.device, a.seconds)); r = rows[-1]
        print(f"{b:>6} {r['drawn']:>10} {r['on_the_host']:>14} {r['plain']:>10}", flush=True)
    if a.speech: rows.append(with_video(head, a.speech, a.device, max(a.batches))); print(rows[-1])
    if a.json: Path(a.json).write_text(json.dumps(dict(about=about, rows=rows), indent=1))


if __name__=='__main__': main()
