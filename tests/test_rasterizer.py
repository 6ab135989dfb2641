"The tiles against the definition, and gsplat against the tiles, on drawn scenes"
import json, os, subprocess, sys
import numpy as np
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from syncgaussian.splat.gaussians import MAX_ALPHA, MIN_ALPHA, MIN_T, Camera, look_at, project_gaussians, splat_alphas
from syncgaussian.splat.rasterizer import RasterizerError, rasterize

LEAVES = ('means','quats','scales','opacities','colors','viewmats')
KINDS = ('plain','out_of_view','behind','one_pixel','opacity_0','opacity_1','thin','outside','huge','equal_depths')
drawn = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def make_scene(seed, kind, n, B, D, width, height, per_camera=False):
    "Random Gaussians before B cameras, with one kind of trouble among them"
    g = torch.Generator().manual_seed(seed)
    rand, randn = (lambda *s: torch.rand(*s, generator=g)), (lambda *s: torch.randn(*s, generator=g))
    lead = (B,) if per_camera else ()
    means, quats, scales = randn(*lead,n,3)*.15, randn(*lead,n,4), .004+.05*rand(*lead,n,3)
    opacities, colors = rand(*lead,n), randn(*lead,n,D)
    half = slice(None, max(1, n//2))
    if kind=='out_of_view': means[...,0] += 50
    if kind=='behind': means[...,half,2] += 3
    if kind=='one_pixel': means, scales = means*.001, scales*.05
    if kind=='opacity_0': opacities[...,half] = 0
    if kind=='opacity_1': opacities[...,half] = 1
    if kind=='thin': scales[...,0], scales[...,1] = .3*scales[...,0]/.05, 1e-5
    if kind=='outside': means[...,half,:2] *= 6
    if kind=='huge': scales[...,:2,:] *= 20
    if kind=='equal_depths': means[...,2] = 0
    angle = (torch.arange(B)-.5*(B-1))*(0 if kind=='equal_depths' else .2)
    camera = look_at(torch.stack([angle.sin(), 0*angle, angle.cos()], -1), width, height, focal=1.3*width)
    return dict(means=means, quats=quats, scales=scales, opacities=opacities, colors=colors), camera


def clear_pixels(cloud, camera, margin=2e-3):
    "Pixels where no alpha is so near to 1/255 or 0.999, and no light so near to its end, that rounding decides [B,H,W]"
    c = {k: v.double() for k,v in cloud.items()}
    args = [c[k] for k in ('means','quats','scales','opacities')]
    seen = project_gaussians(*args, camera.viewmats.double(), camera.Ks.double(), camera.width, camera.height)
    near_by = seen._replace(radii=torch.where(seen.radii>0, seen.radii, 0))
    boosted = splat_alphas(near_by, c['opacities']*(1+margin), camera.width, camera.height)
    damped = splat_alphas(near_by, c['opacities']*(1-margin), camera.width, camera.height)
    unsure = ((boosted>0)!=(damped>0)) | ((boosted>=MAX_ALPHA)!=(damped>=MAX_ALPHA))
    order = seen.depths.float().argsort(dim=1, stable=True)[...,None,None].expand_as(boosted)
    ends = [(1-a.gather(1, order)).cumprod(1)>MIN_T for a in (boosted, damped)]
    return ~(unsure.any(1) | (ends[0]!=ends[1]).any(1))


def run(backend, dtype, cloud, camera, clear, device='cpu'):
    "Pictures and all gradients of a random weighing of the clear pixels"
    leaves = {k: v.detach().to(device, dtype).clone().requires_grad_() for k,v in [*cloud.items(), ('viewmats', camera.viewmats)]}
    rgb, alpha, info = rasterize(**leaves, Ks=camera.Ks.to(device, dtype), width=camera.width, height=camera.height, backend=backend)
    g = torch.Generator().manual_seed(7)
    weigh = lambda x: torch.randn(x.shape, generator=g).to(device, dtype)*clear[...,None].to(device)
    ((rgb*weigh(rgb)).sum() + (alpha*weigh(alpha)).sum()).backward()
    out = dict(rgb=rgb, alpha=alpha, **{k: v.grad for k,v in leaves.items()}, means2d=info['means2d'].grad)
    return {k: None if v is None else v.detach().cpu().double() for k,v in out.items()} | dict(radii=info['radii'].cpu())


def assert_agree(exact, ours, clear, value=1e-4, grad=1e-3):
    "Values within `value`, gradients within `grad` of their own size"
    size = 1 + exact['rgb'].abs().amax()
    for k in ('rgb','alpha'): assert ((ours[k]-exact[k])*clear[...,None]).abs().max() <= value*size, k
    for k in (*LEAVES, 'means2d'):
        if exact[k] is None or exact[k].numel()==0: continue
        bound = grad*exact[k].norm() + 1e-5*size*max(1, clear.sum())**.5
        assert torch.isfinite(ours[k]).all() and (ours[k]-exact[k]).norm() <= bound, (k, (ours[k]-exact[k]).norm(), exact[k].norm())


scenes = dict(seed=st.integers(0, 2**31), kind=st.sampled_from(KINDS), n=st.integers(1, 60), B=st.integers(1, 3), D=st.sampled_from((1,3,5,9)),
              width=st.integers(1, 70), height=st.integers(1, 40), per_camera=st.booleans())

@given(**scenes)
@drawn
def test_tiles_agree_with_the_definition(**kw):
    cloud, camera = make_scene(**kw)
    clear = clear_pixels(cloud, camera)
    exact, ours = run('reference', torch.float64, cloud, camera, clear), run('cpu', torch.float32, cloud, camera, clear)
    assert_agree(exact, ours, clear)
    assert ((exact['radii']-ours['radii']).abs()<=1).all()


@pytest.mark.parametrize('kind', KINDS)
def test_each_trouble(kind):
    cloud, camera = make_scene(3, kind, 50, 2, 3, 48, 33)
    clear = clear_pixels(cloud, camera)
    assert clear.float().mean() > .8
    assert_agree(run('reference', torch.float64, cloud, camera, clear), run('cpu', torch.float32, cloud, camera, clear), clear)


def test_thousands_on_one_pixel():
    cloud, camera = make_scene(1, 'one_pixel', 4000, 1, 3, 20, 20)
    cloud['opacities'] = cloud['opacities']*.02+.004
    clear = clear_pixels(cloud, camera, 1e-4)
    assert_agree(run('reference', torch.float64, cloud, camera, clear), run('cpu', torch.float32, cloud, camera, clear), clear)


@pytest.mark.parametrize('B,N', [(0,5), (2,0), (0,0)])
def test_nothing_to_draw(B, N):
    cloud, camera = make_scene(0, 'plain', N, 1, 4, 20, 10)
    camera = camera._replace(viewmats=camera.viewmats[:1].repeat(B,1,1), Ks=camera.Ks[:1].repeat(B,1,1))
    for backend in ('cpu','reference'):
        leaves = {k: v.clone().requires_grad_() for k,v in cloud.items()}
        rgb, alpha, info = rasterize(**leaves, **camera._asdict(), backend=backend)
        (rgb.sum()+alpha.sum()).backward()
        assert rgb.shape==(B,10,20,4) and alpha.shape==(B,10,20,1) and info['means2d'].shape==(B,N,2)
        assert rgb.abs().sum()==0 and alpha.abs().sum()==0


def test_gradcheck_of_the_definition():
    cloud, camera = make_scene(5, 'plain', 4, 1, 2, 5, 4)
    cloud['scales'] = cloud['scales']*4
    cloud['opacities'] = .3+.4*cloud['opacities']
    leaves = [v.double().requires_grad_() for v in (*cloud.values(), camera.viewmats)]
    draw = lambda *x: rasterize(*x, camera.Ks.double(), 5, 4, backend='reference')[:2]
    assert torch.autograd.gradcheck(draw, leaves, eps=1e-7, atol=1e-5, rtol=1e-3)


def test_background_and_its_gradient():
    cloud, camera = make_scene(5, 'plain', 20, 2, 3, 24, 16)
    back = torch.rand(2,3, requires_grad=True)
    bare, alpha, _ = rasterize(**cloud, **camera._asdict())
    full, _, _ = rasterize(**cloud, **camera._asdict(), backgrounds=back)
    full.sum().backward()
    torch.testing.assert_close(full.detach(), bare+(1-alpha)*back.detach()[:,None,None])
    torch.testing.assert_close(back.grad, (1-alpha).sum((1,2)).expand(2,3), rtol=1e-4, atol=1e-4)


def test_nan_and_infinite_gaussians_are_not_drawn():
    cloud, camera = make_scene(5, 'plain', 12, 1, 3, 24, 16)
    kept = {k: v[4:] for k,v in cloud.items()}
    cloud['means'][0,1], cloud['scales'][1,0], cloud['opacities'][2], cloud['means'][3] = np.nan, np.inf, np.nan, 1e30
    ours, _, info = rasterize(**cloud, **camera._asdict())
    torch.testing.assert_close(ours, rasterize(**kept, **camera._asdict())[0])
    assert (info['radii'][0,:4]==0).all()


def test_same_bits_every_time_and_for_any_number_of_threads():
    cloud, camera = make_scene(9, 'plain', 3000, 2, 5, 100, 90)
    clear, threads, results = torch.ones(2,90,100,dtype=torch.bool), torch.get_num_threads(), []
    try:
        for n in (1,1,2,3):
            torch.set_num_threads(n)
            results.append(run('cpu', torch.float32, cloud, camera, clear))
    finally: torch.set_num_threads(threads)
    for other in results[1:]: assert all(torch.equal(results[0][k], other[k]) for k in results[0])


def test_crop_and_scale_see_the_same():
    cloud, camera = make_scene(9, 'plain', 200, 1, 3, 64, 64)
    whole = rasterize(**cloud, **camera._asdict())[0]
    part = rasterize(**cloud, **camera.crop(17,9,50,41)._asdict())[0]
    middle = (slice(None), slice(4,-4), slice(4,-4))
    assert (whole[:,9:41,17:50]-part)[middle].abs().mean() < 2e-3
    assert camera.scale(.5).width==32


@pytest.mark.parametrize('change,word', [(dict(quats=torch.ones(3,4)), 'quats'), (dict(means=torch.ones(5,20,3)), 'means'),
                                         (dict(colors=torch.ones(2,19,3)), 'colors'), (dict(backend='cuda'), 'backend'),
                                         (dict(backend='gsplat'), 'backend'), (dict(viewmats=torch.eye(4)), 'viewmats')])
def test_wrong_arguments_are_named(change, word):
    cloud, camera = make_scene(9, 'plain', 20, 2, 3, 64, 64)
    with pytest.raises(RasterizerError, match=word): rasterize(**(cloud | camera._asdict() | change))


def test_works_where_nothing_can_be_written(tmp_path):
    "numba keeps compiled code beside the module or in the user's cache; with neither it compiles anew"
    code = 'import torch; from syncgaussian.splat.cpu_projection import compiled\n@compiled\ndef f(x): return x+1\nprint(f(1))'
    (tmp_path/'c').touch()
    env = os.environ | dict(NUMBA_CACHE_DIR=str(tmp_path/'c'/'no'), OMP_NUM_THREADS='1')
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=200)
    assert out.stdout.strip()=='2', out.stderr[-500:]


def test_many_threads_may_draw_at_once():
    from concurrent.futures import ThreadPoolExecutor
    cloud, camera = make_scene(9, 'plain', 300, 1, 3, 64, 64)
    draw = lambda _: rasterize(**cloud, **camera._asdict())[0]
    one = draw(0)
    with ThreadPoolExecutor(4) as pool: assert all(torch.equal(one, x) for x in pool.map(draw, range(12)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@given(**scenes)
@drawn
def test_gsplat_agrees_with_the_tiles(**kw):
    cloud, camera = make_scene(**kw)
    clear = clear_pixels(cloud, camera)
    ours, theirs = run('cpu', torch.float32, cloud, camera, clear), run('gsplat', torch.float32, cloud, camera, clear, 'cuda')
    assert_agree(ours, theirs, clear, value=5e-4, grad=5e-3)
    assert ((theirs['radii']-ours['radii']).abs()<=1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('kind', KINDS)
def test_gsplat_agrees_on_each_trouble(kind):
    cloud, camera = make_scene(3, kind, 50, 2, 3, 48, 33)
    clear = clear_pixels(cloud, camera)
    ours, theirs = run('cpu', torch.float32, cloud, camera, clear), run(None, torch.float32, cloud, camera, clear, 'cuda')
    assert_agree(ours, theirs, clear, value=5e-4, grad=5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('B,N', [(0,5), (2,0), (0,0)])
def test_nothing_to_draw_on_a_gpu(B, N):
    cloud, camera = make_scene(0, 'plain', N, 1, 4, 20, 10)
    camera = camera._replace(viewmats=camera.viewmats[:1].repeat(B,1,1), Ks=camera.Ks[:1].repeat(B,1,1)).to('cuda')
    leaves = {k: v.cuda().requires_grad_() for k,v in cloud.items()}
    rgb, alpha, info = rasterize(**leaves, **camera._asdict())
    (rgb.sum()+alpha.sum()).backward()
    assert rgb.shape==(B,10,20,4) and rgb.abs().sum()==0 and info['means2d'].shape==(B,N,2)


@pytest.mark.slow
def test_compiled_once_within_20_seconds_and_kept_on_disk(tmp_path):
    "Processor time of the first and the second process; what is kept must spare nearly all of it"
    code = '''import time, torch
from syncgaussian.splat import rasterize
x, start = torch.rand(9,10), time.process_time()
x.requires_grad_()
rasterize(x[:,:3], x[:,:4], x[:,:3], x[:,4], x[:,5:8], torch.eye(4)[None], torch.eye(3)[None], 16, 16)[0].sum().backward()
print(time.process_time()-start)'''
    env = os.environ | dict(NUMBA_CACHE_DIR=str(tmp_path), OMP_NUM_THREADS='1')
    seconds = [float(subprocess.check_output([sys.executable, '-c', code], env=env, timeout=300)) for _ in range(2)]
    assert seconds[0] < 20 and seconds[1] < .35*seconds[0]
