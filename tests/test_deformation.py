"Motion fields: parity with the written-out index arithmetic under fuzzing, gradients, devices, and what must not move"
import math

import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn

from syncgaussian.deformation import (FaceMotionField, Motion, MouthMotionField, RegionAttention, TriPlaneHash,
                                      conditioned_linear, deform, fuse, hash_nodes, mlp, plane_levels)
from syncgaussian.splat.gaussians import Gaussians
from syncgaussian.splat.rasterizer import Rendering

def look_up(enc, plane, level, column, row, log2_table):
    "The value of one node, by the definition"
    dense = [l for l in range(enc.levels) if enc.nodes[l]**2 <= 2**log2_table]
    if level in dense: return enc.planes[plane*len(dense)+dense.index(level), 0, row, column]
    hashed = [l for l in range(enc.levels) if l not in dense]
    return enc.plane_tables[plane, hashed.index(level), (column ^ ((row*2654435761) % 2**32)) % 2**log2_table]

def encode_one(enc, point, log2_table):
    "The features of one point, by the definition, in Python's floats"
    if any(abs(p) > enc.bound for p in point): return [0.]*(3*enc.levels)
    out = []
    for plane,(i,j) in enumerate([(0,1), (1,2), (0,2)]):
        for level,scale in enumerate(enc.scales):
            u,v = ((point[k]+enc.bound)/(2*enc.bound)*scale + .5 for k in (i,j))
            c,r = math.floor(u), math.floor(v)
            assert 0 <= c < c+1 < enc.nodes[level] and 0 <= r < r+1 < enc.nodes[level]
            out.append(sum(look_up(enc, plane, level, c+dc, r+dr, log2_table).item()*(u-c if dc else 1-u+c)*(v-r if dr else 1-v+r)
                           for dc in (0,1) for dr in (0,1)))
    return out

def gaussians(n=50):
    g = Gaussians.from_points(torch.rand(n,3)*.2-.1, torch.rand(n,3), scale=.002)
    with torch.no_grad(): g.quats.normal_(); g.log_scales.normal_(-6, .3)
    return g

@settings(max_examples=25, deadline=None)
@given(levels=st.integers(1,6), base=st.floats(2,40), finest=st.floats(2,80), bound=st.floats(.05,2), log2_table=st.integers(4,14), seed=st.integers(0,999))
def test_parity_with_index_arithmetic(levels, base, finest, bound, log2_table, seed):
    torch.manual_seed(seed)
    enc = TriPlaneHash(levels, base, finest, bound, log2_table)
    for p in enc.parameters(): nn.init.normal_(p)
    x = (torch.rand(12,3)*2.2-1.1)*bound
    with torch.no_grad(): ours = enc(x)
    torch.testing.assert_close(ours, torch.tensor([encode_one(enc, p, log2_table) for p in x.tolist()]).view_as(ours), atol=2e-3, rtol=1e-3)

def test_published_sizes():
    "Counted with the ancestors' rounding to 8: 9,464 values a face plane, 46,600 a mouth plane"
    total = lambda *a: sum(-(-n*n//8)*8 for n in plane_levels(*a)[1])
    assert total(12, 16, 38.4) == 9464 and total(12, 64, 57.6) == 46600
    assert TriPlaneHash().plane_tables is None and MouthMotionField().planes.plane_tables is None

def test_hash_is_unsigned_32_bit():
    x,y = torch.randint(0, 5000, (2,300))
    assert hash_nodes(x, y, 2**11).tolist() == [(a ^ (b*2654435761 & 0xffffffff)) % 2**11 for a,b in zip(x.tolist(), y.tolist())]

@pytest.mark.parametrize('edge', [0., -.15, .15])
def test_walls_of_the_cube(edge):
    enc = TriPlaneHash()
    x = torch.full((1,3), edge)
    assert torch.isfinite(enc(x)).all() and enc(x).abs().sum() > 0
    assert (enc(torch.full((1,3), math.copysign(.1501, edge or 1))) == 0).all()

@pytest.mark.parametrize('log2_table', [17, 9])
def test_gradients_to_planes_and_points(log2_table):
    enc = TriPlaneHash(levels=4, log2_table=log2_table).double()
    for p in enc.parameters(): nn.init.normal_(p)
    x = ((torch.rand(5,3, dtype=torch.float64)*2-1)*.14).requires_grad_()
    assert torch.autograd.gradcheck(enc, x, eps=1e-7, atol=1e-4)
    enc(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in enc.parameters())

def test_no_points():
    assert TriPlaneHash()(torch.empty(0,3)).shape == (0,36)
    assert FaceMotionField()(torch.empty(0,3), torch.rand(2,32), torch.rand(2,7)).d_means.shape == (2,0,3)

@settings(max_examples=15, deadline=None)
@given(b=st.integers(1,5), n=st.integers(1,30), f=st.integers(1,9), c=st.integers(1,9), h=st.integers(1,9), attend=st.booleans())
def test_conditioned_linear_is_the_glued_form(b, n, f, c, h, attend):
    w,x,cond,att = torch.randn(h,f+c), torch.randn(n,f), torch.randn(b,c), torch.randn(n,c)
    glued = torch.cat([x.expand(b,-1,-1), (att if attend else torch.ones(n,c))*cond[:,None]], -1) @ w.T
    torch.testing.assert_close(conditioned_linear(w, x, cond, att if attend else None), glued, atol=1e-4, rtol=1e-4)

def test_layer_sizes_and_no_bias():
    shapes = lambda m: [tuple(l.weight.shape) for l in m.modules() if isinstance(l, nn.Linear)]
    f, m = FaceMotionField(), MouthMotionField()
    assert shapes(f.attention.audio) == [(32,36), (32,32)] and shapes(f.attention.expression) == [(16,36), (7,16)]
    assert shapes(f.expression) == [(16,5), (5,16)] and f.first.weight.shape == (64,75) and shapes(f.rest) == [(64,64), (10,64)]
    assert m.first.weight.shape == (32,68) and shapes(m.rest) == [(32,32), (3,32)]
    assert all(l.bias is None for field in (f,m) for l in field.modules() if isinstance(l, nn.Linear))
    assert shapes(mlp(3,4,5)) == [(4,3), (5,4)]
    assert (RegionAttention()(torch.randn(9,36))[1] >= 0).all()

@pytest.mark.parametrize('dims', [dict(audio_dim=8, expression_dim=6, raw_dim=1), dict(audio_dim=16, expression_dim=7), dict(levels=3, bound=.3, base=8, finest=20)])
def test_other_sizes(dims):
    f = FaceMotionField(**dims)
    a,e = torch.randn(3, dims.get('audio_dim', 32)), torch.rand(3, dims.get('expression_dim', 7))
    assert [t.shape for t in f(torch.rand(11,3)*.1, a, e)] == [(3,11,3), (3,11,4), (3,11,3), (3,11,2)]

def test_frames_do_not_mix():
    "A frame's motion is the same alone and in a batch"
    f, m = FaceMotionField(), MouthMotionField()
    for p in [*f.parameters(), *m.parameters()]: nn.init.normal_(p, std=.3)
    x,a,e = torch.rand(40,3)*.2-.1, torch.randn(4,32), torch.rand(4,7)
    for whole,alone in zip(f(x,a,e), f(x,a[2:3],e[2:3])): torch.testing.assert_close(whole[2:3], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(m(x,a).d_means[2:3], m(x,a[2:3]).d_means, atol=1e-5, rtol=1e-4)

def test_outside_the_cube_all_points_move_alike():
    f, m = FaceMotionField(), MouthMotionField()
    for p in [*f.parameters(), *m.parameters()]: nn.init.normal_(p, std=.3)
    far, a = torch.tensor([[.2,0,0], [0,-.3,.1], [9,9,9.]]), torch.randn(2,32)
    motion = f(far, a, torch.rand(2,7))
    for t in (*motion, m(far, a).d_means): torch.testing.assert_close(t, t[:,:1].expand_as(t))

def test_a_point_that_listens_to_nothing_has_finite_gradients():
    "The norm of zero attention has a gradient of zero, not of NaN"
    f = FaceMotionField()
    for p in f.attention.parameters(): nn.init.constant_(p, -1.)
    nn.init.constant_(f.planes.planes, 1.)
    f.attention.expression[0].weight.data.abs_() # hidden units on, outputs far below zero
    motion = f(torch.rand(5,3)*.1, torch.randn(2,32), torch.rand(2,7))
    assert motion.attention[...,1].abs().max() == 0
    sum(t.sum() for t in motion).backward()
    assert all(torch.isfinite(p.grad).all() for p in f.parameters() if p.grad is not None)

def test_starts_still_and_listening_then_everything_learns():
    f, m, x, a, e = FaceMotionField(), MouthMotionField(), torch.rand(100,3)*.2-.1, torch.randn(2,32), torch.rand(2,7)
    first = f(x, a, e)
    assert all(t.abs().max() == 0 for t in (*first[:3], m(x,a).d_means))
    torch.testing.assert_close(first.attention, torch.tensor([32.,7]).sqrt().expand(2,100,2), atol=1e-2, rtol=0)
    for field,args in ((f,(x,a,e)), (m,(x,a))):
        opt = torch.optim.AdamW(field.parameters(), lr=1e-3)
        for _ in range(2):
            opt.zero_grad()
            sum((t-1).square().sum() for t in field(*args)[:3] if t is not None).backward(); opt.step()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in field.parameters())

def test_deform_before_activation():
    g = gaussians()
    means,quats,scales = deform(g, Motion(torch.full((2,50,3), .01), torch.full((2,50,4), .5), torch.full((2,50,3), -50.)))
    torch.testing.assert_close(means, g.means.expand(2,-1,-1)+.01)
    torch.testing.assert_close(quats, g.quats.expand(2,-1,-1)+.5)
    assert (scales > 0).all()
    means,quats,scales = deform(g, Motion(torch.rand(3,50,3)))
    assert quats.shape == (3,50,4) and torch.equal(scales[1], g.scales)
    scales.sum().backward()
    assert g.log_scales.grad is not None

def test_fuse_is_over():
    "Against straight (not alpha-weighted) colours blended one after the other"
    ca,cb,bg = torch.rand(3,1,8,8,3)
    a,b = torch.rand(2,1,8,8,1)
    seen = fuse(Rendering(ca*a, a, None, {}), Rendering(cb*b, b, None, {}), bg)
    torch.testing.assert_close(seen, torch.lerp(torch.lerp(bg, cb, b), ca, a))

def test_half_precision_networks_keep_float_motion():
    f, x = FaceMotionField(), torch.rand(20,3)*.2-.1
    for p in f.parameters(): nn.init.normal_(p, std=.2)
    a,e = torch.randn(2,32), torch.rand(2,7)
    with torch.autocast('cpu', torch.bfloat16): half = f(x, a, e)
    assert {t.dtype for t in half} == {torch.float32}
    assert (half.d_means-f(x,a,e).d_means).abs().max() < .1*f(x,a,e).d_means.abs().max()

def test_state_has_parameters_only():
    "Buffers follow from the settings; a saved field holds what was learned"
    f = FaceMotionField()
    assert set(f.state_dict()) == {n for n,_ in f.named_parameters()}
    g = FaceMotionField(); g.load_state_dict(f.state_dict())
    x,a,e = torch.rand(5,3)*.1, torch.randn(1,32), torch.rand(1,7)
    assert torch.equal(f(x,a,e).d_means, g(x,a,e).d_means)

def test_follows_the_device_meta():
    "Nothing is made on a device of its own: all runs on `meta`, where a stray CPU tensor would raise"
    f, m = FaceMotionField().to('meta'), MouthMotionField(log2_table=9).to('meta')
    x,a,e = (torch.empty(*s, device='meta') for s in ((9,3), (2,32), (2,7)))
    assert {t.device.type for t in (*f(x,a,e), m(x,a).d_means)} == {'meta'}

@pytest.mark.gpu
def test_gpu_equals_cpu():
    for field,c in ((FaceMotionField(), (torch.randn(3,32), torch.rand(3,7))), (MouthMotionField(log2_table=10), (torch.randn(3,32),))):
        for p in field.parameters(): nn.init.normal_(p, std=.2)
        x = torch.rand(500,3)*.4-.2
        cpu = field(x, *c).d_means
        gpu = field.cuda()(x.cuda(), *(o.cuda() for o in c)).d_means
        torch.testing.assert_close(cpu, gpu.cpu(), atol=1e-4*cpu.abs().max().item(), rtol=1e-3)
