"Losses and scores against scikit-image, the lpips package and plain arithmetic; what is refused; dtypes and devices"
import math

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from syncgaussian.assets import AssetError, fetch_asset
from syncgaussian.clip.landmarks import BLENDSHAPES, INNER_LIPS, OUTER_LIPS
from syncgaussian.scores import metrics
from syncgaussian.scores.metrics import *
from syncgaussian.scores.metrics import blur, gaussian_window

def pair(b=1, h=40, w=52, dtype=torch.float32):
    y = torch.nn.functional.interpolate(torch.rand(b,3,h//4+1,w//4+1, dtype=dtype), (h,w), mode='bilinear').permute(0,2,3,1)
    return (y+.05*torch.randn_like(y)).clamp(0,1), y

@pytest.fixture(scope='module')
def alexnet():
    try: return fetch_asset('alexnet')
    except AssetError as e: pytest.skip(f'AlexNet cannot be had here: {e}')

@settings(max_examples=10, deadline=None)
@given(b=st.integers(1,3), h=st.integers(11,70), w=st.integers(11,70), seed=st.integers(0,99))
def test_scikit_image(b, h, w, seed):
    torch.manual_seed(seed)
    x,y = pair(b, h, w)
    for i in range(b):
        theirs = structural_similarity(y[i].numpy(), x[i].numpy(), channel_axis=-1, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        assert abs(ssim(x,y)[i].item()-theirs) < 1e-4
        assert abs(psnr(x,y)[i].item()-peak_signal_noise_ratio(y[i].numpy(), x[i].numpy(), data_range=1)) < 1e-3

def test_ssim_gradient_by_differences():
    x,y = pair(1, 13, 14, torch.float64)
    assert torch.autograd.gradcheck(lambda o: ssim_map(o, y), x.requires_grad_(), eps=1e-6, atol=1e-5, fast_mode=True)
    (x,y), weights = pair(1, 14, 15, torch.float64), torch.rand(1,14,15)
    assert torch.autograd.gradcheck(lambda o: dssim_loss(o, y, (1,2,14,14), weights), x.requires_grad_(), eps=1e-6, atol=1e-5, fast_mode=True)

def test_ssim_gradient_of_flat_pictures_is_finite():
    x = torch.zeros(1,16,16,3, requires_grad=True)
    dssim_loss(x, torch.zeros(1,16,16,3)).backward()
    assert torch.isfinite(x.grad).all()

def test_window():
    w = gaussian_window()
    assert w.shape == (11,) and abs(w.sum()-1) < 1e-6 and torch.equal(w, w.flip(0))
    one = torch.zeros(1,1,21,21); one[0,0,10,10] = 1
    torch.testing.assert_close(blur(one)[0,0], w[:,None]*w)
    assert blur(one, 10).shape == (1,1,31,31)

def test_ideal_values_exactly(alexnet):
    _,y = pair(2, 64, 64)
    assert (psnr(y,y) == math.inf).all() and (ssim(y,y) == 1).all() and (lpips_distance(y,y) == 0).all()
    assert dssim_loss(y,y) == 0 and reconstruction_loss(y,y) == 0 and canonical_loss(y,y) == 0
    assert deformation_loss(y,y,torch.tensor(.4)) == .2 and finetune_loss(y,y,torch.tensor(.4)) == .2

def test_losses_add_up():
    x,y = pair(2)
    l1,d = (x-y).abs().mean(), 1-ssim(x,y).mean()
    torch.testing.assert_close(reconstruction_loss(x,y), l1+.2*d)
    torch.testing.assert_close(reconstruction_loss(x,y,0), l1)
    torch.testing.assert_close(deformation_loss(x,y,torch.tensor(2.), .3, .7), l1+.3*d+1.4)
    torch.testing.assert_close(finetune_loss(x,y,torch.tensor(2.), .3, .7), l1+.3*d+1.4)

def test_box_and_mask():
    x,y = pair(1, 40, 60)
    mask = torch.zeros(1,40,60); mask[:,5:30,10:44] = 1
    torch.testing.assert_close(psnr(x,y,mask=mask), psnr(x,y,(10,5,44,30)))
    torch.testing.assert_close(ssim(x,y,mask=mask), ssim(x,y,(5,0,49,35))) # windows around masked pixels reach 5 px further
    torch.testing.assert_close(ssim(x,y,mask=torch.ones(1,40,60)), ssim(x,y))
    torch.testing.assert_close(ssim(x,y,(3,4,43,38),mask[:]*0+1), ssim(x,y,(3,4,43,38)))
    assert psnr(x,y,mask=mask.bool()).isfinite().all()

@pytest.mark.parametrize('f', [psnr, ssim, ssim_map, dssim_loss, reconstruction_loss])
def test_refusals(f):
    x,y = pair()
    for a,b in ((x,y[:,:-1]), (x,y[...,:1]), (x[0],y[0]), ((x*255).byte(),(y*255).byte()), (x,y.expand(2,-1,-1,-1))):
        with pytest.raises(MetricError): f(a,b)

def test_more_refusals(alexnet):
    x,y = pair(1, 20, 20)
    with pytest.raises(MetricError, match='32x32'): lpips_distance(x,y)
    with pytest.raises(MetricError, match='11x11'): ssim(x[:,:8],y[:,:8])
    with pytest.raises(MetricError, match='first picture'): ssim(x,y.clone().requires_grad_())
    with pytest.raises(MetricError, match='leaves'): psnr(x,y,(-1,0,4,4))
    with pytest.raises(MetricError, match='leaves'): psnr(x,y,(5,5,5,9))
    with pytest.raises(MetricError, match='no patch'): patch_lpips(x,y,64)
    with pytest.raises(MetricError): score_frames([],[])
    assert issubclass(MetricError, ValueError)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_ssim_in_half_precision_is_computed_in_float(dtype):
    x,y = (o.to(dtype) for o in pair())
    assert ssim(x,y).dtype == torch.float32
    torch.testing.assert_close(ssim(x,y), ssim(x.float(),y.float()))
    with torch.autocast('cpu', torch.bfloat16): torch.testing.assert_close(ssim(x.float(),y.float()), ssim(x.float(),y.float()))
    g = x.detach().requires_grad_()
    dssim_loss(g, y).backward()
    assert g.grad.dtype == dtype

def test_lpips_package(alexnet):
    "The package's own forward on its own layout; and the known value of seed 123"
    from lpips import LPIPS as Package
    from safetensors.torch import load_file
    theirs = Package(net='alex', pnet_rand=True, verbose=False).eval()
    w = load_file(alexnet)
    for s in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5):
        for n,m in s.named_children():
            if isinstance(m, torch.nn.Conv2d): m.weight.data, m.bias.data = w[f'features.{n}.weight'], w[f'features.{n}.bias']
    torch.manual_seed(123)
    a,b = (torch.rand(10,3,100,100)*2-1 for _ in 'ab')
    with torch.no_grad():
        known = theirs(a, b).flatten()
        ours = lpips_distance(*(o.permute(0,2,3,1)/2+.5 for o in (a,b)))
    assert abs(known.mean().item()-.14856186) < 1e-6
    torch.testing.assert_close(ours, known, atol=1e-6, rtol=1e-5)

def test_lpips_is_a_ruler(alexnet):
    m = lpips_model('cpu')
    assert m is lpips_model(torch.device('cpu')) and not any(p.requires_grad for p in m.parameters())
    torch.nn.Sequential(m).train()
    assert not any(c.training for c in m.modules())
    x,y = pair(1, 64, 64)
    x.requires_grad_()
    patch_lpips(x, y, 32).backward()
    assert x.grad.abs().sum() > 0

def test_patches_cover_what_they_say(alexnet):
    x = torch.arange(2*70*90*3).float().view(2,70,90,3)
    p = patches(x, 32, 3, 5)
    assert p.shape == (8,32,32,3)
    assert torch.equal(p[1], x[0,3:35,37:69]) and torch.equal(p[6], x[1,35:67,5:37])
    a,b = pair(1, 70, 90)
    assert {round(patch_lpips(a,b,(32,42)).item(), 5) for _ in range(6)} != {0.} # any size in the range, any place

def test_worse_is_worse(alexnet):
    x,y = pair(1, 64, 64)
    near = y+.2*(x-y)
    assert psnr(near,y) > psnr(x,y) and ssim(near,y) > ssim(x,y) and lpips_distance(near,y) < lpips_distance(x,y)

@settings(max_examples=20, deadline=None)
@given(t=st.integers(1,4), size=st.sampled_from([128,256,450,512]), dx=st.floats(-50,50), seed=st.integers(0,99))
def test_lmd(t, size, dx, seed):
    r = np.random.default_rng(seed)
    a,b = r.random((2,t,478,3))*size
    by_hand = 0
    for i in range(t):
        u,v = a[i,list(MOUTH_LANDMARKS),:2], b[i,list(MOUTH_LANDMARKS),:2]
        by_hand += sum(math.dist(p-u.mean(0), q-v.mean(0)) for p,q in zip(u,v))/20/t
    assert math.isclose(landmark_distance(a, b, size), by_hand*512/size, rel_tol=1e-9)
    assert math.isclose(landmark_distance(a+dx, b, size), landmark_distance(a, b, size), rel_tol=1e-6)
    assert landmark_distance(torch.from_numpy(a), torch.from_numpy(a), size) == 0

def test_mouth_landmarks_are_twenty_lip_points():
    assert len(set(MOUTH_LANDMARKS)) == 20
    assert set(MOUTH_LANDMARKS) <= set(INNER_LIPS)|set(OUTER_LIPS)

def test_landmark_refusals():
    a = np.zeros((2,478,3))
    for x,y in ((a,a[:1]), (a[0],a[0]), (a[:0],a[:0])):
        with pytest.raises(MetricError): landmark_distance(x, y, 512)
    with pytest.raises(MetricError, match='points=None'): landmark_distance(a[:,:20], a[:,:20], 512)

def test_blendshapes():
    names = lambda idx: {BLENDSHAPES[i] for i in idx}
    assert 'jawOpen' in names(metrics.LOWER_BLENDSHAPES) and 'browInnerUp' in names(metrics.UPPER_BLENDSHAPES)
    assert not set(metrics.LOWER_BLENDSHAPES) & set(metrics.UPPER_BLENDSHAPES)
    assert not any(n.startswith(('_', 'eyeLook')) for n in names(metrics.LOWER_BLENDSHAPES+metrics.UPPER_BLENDSHAPES))
    with pytest.raises(MetricError): blendshape_error(np.zeros((2,51)), np.zeros((2,51)))
    with pytest.raises(MetricError): blendshape_error(np.zeros((2,52)), np.zeros((3,52)))

def openface(path, values, spaces=True, units=(1,2,4,5,6,7,9,10,12,14,15,17,20,23,25,26,45)):
    sep = ', ' if spaces else ','
    rows = [sep.join(['frame', *(f'AU{u:02}_r' for u in units), 'AU01_c'])]
    path.write_text('\n'.join(rows+[sep.join([str(i), *(f'{v}' for v in r[:len(units)]), '1']) for i,r in enumerate(values)])+'\n')
    return path

def test_action_units(tmp_path):
    r = np.random.default_rng(0)
    a,b = r.random((2,9,17)).round(3)*5
    scores = au_error(openface(tmp_path/'a.csv', a), openface(tmp_path/'b.csv', b, spaces=False))
    error = ((a-b)**2).mean(0)
    assert math.isclose(scores['aue_l'], error[7:16].sum()) and math.isclose(scores['aue_u'], error[:7].sum()+error[16])
    with pytest.raises(MetricError, match='frames'): au_error(tmp_path/'a.csv', openface(tmp_path/'c.csv', b[:5]))
    with pytest.raises(MetricError, match='missing'): au_error(tmp_path/'a.csv', openface(tmp_path/'d.csv', b, units=(1,2)))
    (tmp_path/'e.csv').write_text('frame,x\n1,2\n'); (tmp_path/'f.csv').write_text('')
    for name in ('e.csv', 'f.csv'):
        with pytest.raises(MetricError, match='OpenFace'): au_error(tmp_path/'a.csv', tmp_path/name)

@pytest.mark.parametrize('late', [-5,-1,0,2,7])
def test_sync_finds_the_delay(late):
    s = torch.randn(120,16)
    lips,sound = (s[:-late], s[late:]) if late > 0 else (s[-late:], s[:len(s)+late]) if late < 0 else (s,s)
    for pad in (False, True):
        scores = slide_scores(lips, sound, 10, pad)
        assert scores.offset == late and scores.confidence > 2 and (scores.distance < 1e-4 or pad and late)
        assert scores.curve.shape == (21,) and scores.curve.argmin()-10 == -late
    with pytest.raises(MetricError): slide_scores(s[:20], s[:20], 10)
    with pytest.raises(MetricError): slide_scores(s, s[:-1])

def test_zeros_beyond_the_ends_by_hand():
    "The published arithmetic in plain numbers; the longer of both is cut"
    lips,sound = torch.randn(8,4), torch.randn(10,4)
    scores = slide_scores(lips, sound, 3, pad=True)
    beside = lambda i: sound[i] if 0 <= i < 8 else torch.zeros(4)
    by_hand = [sum((lips[i]-beside(i+k)+1e-6).norm().item() for i in range(8))/8 for k in range(-3,4)]
    np.testing.assert_allclose(scores.curve, by_hand, rtol=1e-5)
    assert math.isclose(scores.distance, min(by_hand), rel_tol=1e-5) and math.isclose(scores.confidence, sorted(by_hand)[3]-min(by_hand), rel_tol=1e-4)

def test_scores_of_a_video(alexnet):
    r = np.random.default_rng(0)
    truth = r.integers(0, 256, (7,48,64,3), dtype=np.uint8)
    made = (truth.astype(int)+r.integers(-9, 10, truth.shape)).clip(0,255).astype(np.uint8)
    labels = np.zeros((7,48,64), np.uint8); labels[:,8:40,16:48] = 3
    box = (16,8,48,40)
    s = score_frames(iter(made), iter(truth), box, iter(labels), batch=3)
    x,y = (torch.from_numpy(o).float()/255 for o in (made,truth))
    for name,f in dict(psnr=psnr, ssim=ssim, lpips=lpips_distance).items():
        with torch.no_grad():
            assert math.isclose(s[name], f(x,y).mean().item(), rel_tol=1e-4)
            assert math.isclose(s[f'{name}_head'], f(x,y,box).mean().item(), rel_tol=1e-4)
    assert math.isclose(s['psnr_mask'], s['psnr_head'], rel_tol=1e-4)
    assert score_frames(x, list(y), batch=7)['psnr'] == pytest.approx(s['psnr'], rel=1e-4)
    assert set(score_frames(made[:2], truth[:2])) == {'psnr','ssim','lpips'}

def test_a_video_is_not_held_in_memory(alexnet):
    alive = {'now':0, 'most':0}
    class Frame(np.ndarray):
        def __del__(self): alive['now'] -= 1
    def stream(n):
        for _ in range(n):
            f = np.full((32,32,3), 9, np.uint8).view(Frame)
            alive['now'] += 1; alive['most'] = max(alive['most'], alive['now'])
            yield f
            del f
    score_frames(stream(40), (np.zeros((32,32,3), np.uint8) for _ in range(40)), batch=4)
    assert alive['most'] <= 12

@pytest.mark.parametrize('n,m', [(5,6), (6,5), (8,7), (0,1)])
def test_videos_of_two_lengths(alexnet, n, m):
    frame = np.zeros((32,32,3), np.uint8)
    with pytest.raises(MetricError, match=f'ends after {min(n,m)} frames'): score_frames([frame]*n, [frame]*m, batch=4)
    with pytest.raises(MetricError, match='cannot compare'): score_frames([frame], [frame[:,:-1]])

def test_import_is_light():
    "Models and packages that only some scores need are loaded by those"
    import subprocess, sys
    code = "import sys, syncgaussian.scores.metrics, syncgaussian.deformation as d; print(*{'mediapipe','librosa','transformers','lpips','torchvision','cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == ''

@pytest.mark.gpu
def test_gpu_equals_cpu(alexnet):
    x,y = pair(2, 96, 128)
    for f in (psnr, ssim, lpips_distance, dssim_loss):
        torch.testing.assert_close(f(x.cuda(), y.cuda()).cpu(), f(x,y), atol=1e-4, rtol=1e-4)
    grads = []
    for device in ('cpu','cuda'):
        o = x.detach().to(device).requires_grad_()
        dssim_loss(o, y.to(device)).backward(); grads.append(o.grad.cpu())
    torch.testing.assert_close(*grads, atol=1e-7, rtol=1e-3)
