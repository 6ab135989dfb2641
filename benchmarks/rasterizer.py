"""How long a frame takes: our tiles on a CPU, gsplat on a GPU, and sorted pairs in plain PyTorch for comparison.

    python benchmarks/rasterizer.py                     # the whole table for this machine
    python benchmarks/rasterizer.py --quick             # the two goals of the project only
    python benchmarks/rasterizer.py --json out.json     # the same as JSON
    python benchmarks/rasterizer.py --backends gsplat   # on a GPU, without the comparison

Where other programs want the same cores, set GOMP_SPINCOUNT=0: PyTorch's threads otherwise wait for each other in a busy loop.
"""
import argparse, ctypes, json, os, platform, time
import torch
from syncgaussian.splat.gaussians import MAX_ALPHA, MIN_ALPHA, MIN_T, look_at, project_gaussians
from syncgaussian.splat.rasterizer import rasterize

SIZES = [(n, px, batch) for px in (128, 256, 512) for n in (1_000, 5_000, 20_000) for batch in (1, 8)]
GOALS = [(5_000, 128, 1), (10_000, 256, 1)]
MAX_PAIRS = 8_000_000  # Above this the comparison would need more than some 6 GB


def make_scene(n, px, batch, device, radius=4., seed=0):
    "A head-sized cloud of n Gaussians that reach about `radius` pixels at 256 px, seen by `batch` cameras"
    g = torch.Generator().manual_seed(seed)
    rand, randn = (lambda *s: torch.rand(*s, generator=g)), (lambda *s: torch.randn(*s, generator=g))
    scales = radius/3.33/512*torch.exp(.3*randn(n,3))
    cloud = dict(means=randn(n,3)*torch.tensor([.1,.13,.1]), quats=randn(n,4), scales=scales, opacities=.05+.9*rand(n), colors=rand(n,3))
    angle = (torch.arange(batch)-.5*(batch-1))*.05
    camera = look_at(torch.stack([angle.sin(), 0*angle, angle.cos()], -1), px, px)
    return {k: v.to(device).requires_grad_() for k,v in cloud.items()}, camera.to(device)


def gaussian_pixel_pairs(seen, width, height):
    "Camera, Gaussian and pixel of every pair whose pixel lies in the Gaussian's box"
    corner = torch.tensor([width,height]).to(seen.radii)
    low = (seen.means2d.detach()-seen.radii-.5).ceil().long().clamp(min=0)
    high = torch.minimum((seen.means2d.detach()+seen.radii-.5).floor().long()+1, corner)
    size = torch.where(seen.radii>0, (high-low).clamp(min=0), 0)
    counts = size.prod(-1).flatten()
    box = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    k = torch.arange(len(box), device=box.device) - torch.repeat_interleave(counts.cumsum(0)-counts, counts)
    wide = size[...,0].flatten()[box]
    x, y = low[...,0].flatten()[box] + k%wide, low[...,1].flatten()[box] + k//wide
    return box//seen.depths.shape[1], box%seen.depths.shape[1], x, y


def rasterize_pairs(means, quats, scales, opacities, colors, viewmats, Ks, width, height):
    "The usual way without a compiler: list all pairs, sort them by pixel and depth, blend with one cumulative sum"
    B = len(viewmats)
    seen = project_gaussians(means, quats, scales, opacities, viewmats, Ks, width, height)
    b, g, x, y = gaussian_pixel_pairs(seen, width, height)
    dx, dy = x+.5-seen.means2d[b,g,0], y+.5-seen.means2d[b,g,1]
    xx, xy, yy = seen.conics[b,g].unbind(-1)
    alphas = (opacities[g]*torch.exp(-.5*(xx*dx*dx+yy*dy*dy)-xy*dx*dy)).clamp(max=MAX_ALPHA)
    keep = (alphas>=MIN_ALPHA).nonzero()[:,0]
    pixel, depth, alphas, g = (b*height+y)[keep]*width+x[keep], seen.depths.detach()[b,g][keep], alphas[keep], g[keep]
    order = depth.argsort(stable=True)
    order = order[pixel[order].argsort(stable=True)]
    pixel, alphas, g = pixel[order], alphas[order], g[order]
    logs = torch.log1p(-alphas.double())
    total, start = logs.cumsum(0), torch.searchsorted(pixel, pixel)
    before = total-logs
    before = before-before[start]
    drawn = (before+logs).exp()>MIN_T
    weights = torch.where(drawn, alphas*before.exp().float(), 0)
    out = means.new_zeros(B*height*width, 4).index_add(0, pixel, weights[:,None]*torch.cat([colors, torch.ones_like(colors[:,:1])], 1)[g])
    out = out.view(B, height, width, 4)
    return out[...,:3], out[...,3:], dict(pairs=len(order))


def clock(f, device, seconds):
    "Best wall time of repeated calls, in ms"
    sync = torch.cuda.synchronize if device=='cuda' else (lambda: None)
    f(); sync()
    times = []
    while len(times)<3 or (sum(times)<seconds and len(times)<200):
        start = time.perf_counter(); f(); sync()
        times.append(time.perf_counter()-start)
    return 1e3*min(times)


def peak_memory(f, device):
    "MiB that a call adds at its peak; None where the system does not tell"
    if device=='cuda':
        torch.cuda.reset_peak_memory_stats(); before = torch.cuda.memory_allocated(); f(); torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated()-before)/2**20
    read = lambda key: next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(key))/2**10
    if not os.path.exists('/proc/self/clear_refs'): return None
    ctypes.CDLL(None).malloc_trim(0)
    with open('/proc/self/clear_refs','w') as reset: reset.write('5')
    before = read('VmRSS'); f()
    return read('VmHWM')-before


def measure(draw, cloud, camera, device, seconds):
    "Forward, forward+backward (ms) and peak memory of the latter (MiB)"
    inputs = cloud | camera._asdict()
    def train():
        rgb, alpha, _ = draw(**inputs)
        (rgb.square().mean()+alpha.mean()).backward()
    with torch.no_grad(): forward = clock(lambda: draw(**inputs), device, seconds)
    return dict(forward_ms=forward, train_ms=clock(train, device, seconds), peak_mib=peak_memory(train, device))


def run(sizes, backends, device, seconds):
    "One row for each size and backend; `ratio` says how many times faster than pairs in the same run"
    for n, px, batch in sizes:
        cloud, camera = make_scene(n, px, batch, device)
        with torch.no_grad():
            seen = project_gaussians(*(cloud[k] for k in ('means','quats','scales','opacities')), *camera)
            pairs = len(gaussian_pixel_pairs(seen, px, px)[0])
        rows = []
        for name in backends:
            row = dict(gaussians=n, px=px, batch=batch, backend=name, pairs=pairs)
            if name=='pairs' and pairs>MAX_PAIRS: row |= dict(skipped='too many pairs')
            else:
                draw = rasterize_pairs if name=='pairs' else lambda **kw: rasterize(**kw, backend=name)
                row |= measure(draw, cloud, camera, device, seconds)
            rows.append(row)
        base = next((r for r in rows if r['backend']=='pairs' and 'train_ms' in r), None)
        for row in rows:
            if base and 'train_ms' in row: row['ratio'] = base['train_ms']/row['train_ms']
            yield row


def first_call(device):
    "Seconds of the first forward+backward: compilation, or loading from the cache"
    cloud, camera = make_scene(100, 64, 1, device)
    start = time.perf_counter()
    rasterize(**cloud, **camera._asdict())[0].sum().backward()
    return time.perf_counter()-start


def machine(device):
    "What the numbers were measured on"
    gpu = torch.cuda.get_device_name() if device=='cuda' else None
    return dict(device=device, gpu=gpu, cpu=platform.processor() or platform.machine(), threads=torch.get_num_threads(),
                torch=torch.__version__, python=platform.python_version())


def show(row):
    "One line of the table"
    cell = lambda key, digits: f'{row[key]:.{digits}f}' if row.get(key) is not None else '-'
    per_frame = f'{row["train_ms"]/row["batch"]:.2f}' if 'train_ms' in row else '-'
    print(f'{row["gaussians"]:>9,} {row["px"]:>4} {row["batch"]:>5} {row["backend"]:>9} {cell("forward_ms",2):>10} {cell("train_ms",2):>12} '
          f'{per_frame:>9} {cell("peak_mib",0):>9} {cell("ratio",1):>7}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', help='write the table there')
    parser.add_argument('--quick', action='store_true', help='only the sizes that the goals are about')
    parser.add_argument('--backends', nargs='+', help='of cpu, gsplat, reference, pairs; default: that of the device, and pairs')
    parser.add_argument('--seconds', type=float, default=1., help='time for each number')
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    backends = args.backends or ['gsplat' if device=='cuda' else 'cpu', 'pairs']
    about = machine(device) | dict(first_call_s=first_call(device))
    print(json.dumps(about))
    print(f'{"Gaussians":>9} {"px":>4} {"batch":>5} {"backend":>9} {"forward ms":>10} {"fwd+bwd ms":>12} {"a frame":>9} {"peak MiB":>9} {"x pairs":>7}')
    rows = []
    for row in run(GOALS if args.quick else SIZES+GOALS[1:], backends, device, args.seconds): rows.append(row); show(row)
    if args.json:
        with open(args.json, 'w') as f: json.dump(dict(about=about, rows=rows), f, indent=1)


if __name__=='__main__': main()
