"The same head on a CPU and, where there is one, on a GPU: drawn through a CUDA graph, filmed, and trained with several frames a step"
import numpy as np
import pytest
import torch

av = pytest.importorskip('av')
from syncgaussian.clip import read_video
from syncgaussian.config import course_config, override
from syncgaussian.preparation import prepare
from syncgaussian.samples import sample_clip_path
from syncgaussian.synthesis.drive import Drive, HeadRenderer, hear_clip, render_frames, there_and_back
from syncgaussian.synthesis.film import backdrop_reader, write_film
from syncgaussian.training import TrainingData, load_head, train
from syncgaussian.training.densify import Densifier

TINY = override(course_config(), n_face=600, n_mouth=100, canonical_frames=8, motion_frames=120, finetune_frames=4, batch=2, densify_every=40, ave_seconds=2., lpips_patch=48)
devices = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)])

@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return prepare(sample_clip_path(), tmp_path_factory.mktemp('gpu')/'clip', size=128, max_seconds=4, progress=False)

@pytest.fixture(scope='module')
def folder(clip, tmp_path_factory): return train(clip, tmp_path_factory.mktemp('gpu')/'head', TINY, device='cpu', progress=False).dir

def talking(folder, device):
    "The trained head with motions large enough to be seen after so short a training, one or two centimetres"
    head = load_head(folder, device)
    with torch.no_grad():
        for field in (head.face_field, head.mouth_field): [m for m in field.modules() if isinstance(m, torch.nn.Linear)][-1].weight.mul_(3)
    return head

def inputs(head, seed=0, B=4):
    "Made-up speech windows, no silence, recorded frames and grey backdrops for one batch"
    device, (x0, y0, x1, y1) = head.viewmats.device, head.box
    g = torch.Generator().manual_seed(seed)
    hu, ave = (torch.randn(B, 8, *s, generator=g).to(device) for s in (head.hu_shape, (1, 512)))
    return hu, ave, torch.zeros(B, device=device), torch.arange(B, device=device)*20, torch.full((B, y1-y0, x1-x0, 3), 90, dtype=torch.uint8, device=device)

def difference(a, b): return (a.int()-b.int()).abs().float()

# ---- the graph

@devices
def test_graph_draws_what_is_drawn_without_it(folder, device):
    "At most two of 255 levels apart anywhere (kernels may be chosen otherwise inside a graph), and a hundredth of one on average"
    head = talking(folder, device)
    graphed, plain = HeadRenderer(head, 4), HeadRenderer(head, 5)      # of another size than the batch: drawn without a graph
    for seed in range(3):
        d = difference(graphed(*inputs(head, seed)), plain(*inputs(head, seed)))
        assert d.max() <= 2 and d.mean() < 0.01
    assert (graphed.graph is not None)==(device=='cuda') and plain.graph is None

@devices
def test_other_speech_poses_and_silence_give_other_frames(folder, device):
    "A graph that kept its first inputs would draw the first frames again"
    head = talking(folder, device)
    draw = HeadRenderer(head, 4)
    hu, ave, quiet, scene, under = inputs(head)
    first = draw(hu, ave, quiet, scene, under)
    others = dict(text=(-hu, ave, quiet, scene, under), visual=(hu, -3*ave, quiet, scene, under), silence=(hu, ave, quiet+1, scene, under),
                  pose=(hu, ave, quiet, scene+5, under), backdrop=(hu, ave, quiet, scene, under+60))
    for name, other in others.items(): assert difference(draw(*other), first).max() > 3, name
    assert difference(draw(hu, ave, quiet, scene, under), first).max() <= 1
    silent = [draw(*inputs(head, seed)[:2], quiet+1, scene, under) for seed in (1, 2)]
    assert difference(*silent).max() <= 1

@devices
def test_two_heads_after_each_other(folder, device):
    "Each draws itself, whatever the other did in between"
    one, two = (talking(folder, device) for _ in range(2))
    with torch.no_grad(): two.face.sh0.neg_()
    x = inputs(one)
    draw, wanted = {k:HeadRenderer(h, 4) for k, h in (('one', one), ('two', two))}, {k:HeadRenderer(h, 5)(*x) for k, h in (('one', one), ('two', two))}
    assert difference(wanted['one'], wanted['two']).max() > 20
    for k in ('one', 'two', 'one', 'one', 'two'): assert difference(draw[k](*x), wanted[k]).max() <= 2
    del one, draw['one']
    assert difference(draw['two'](*x), wanted['two']).max() <= 2

@devices
def test_frames_do_not_depend_on_the_batch(folder, clip, device):
    "Ten frames in batches of 4 (the last one is not full), and one by one"
    head = talking(folder, device)
    drive = Drive(*hear_clip(head, clip), there_and_back(10, len(head.viewmats), 95))
    a, b = (np.concatenate(list(render_frames(head, drive, backdrop_reader(head), batch=n))) for n in (4, 1))
    assert a.shape==b.shape==(10, 128, 128, 3) and abs(a.astype(int)-b).max() <= 2

@pytest.mark.gpu
def test_film_of_a_gpu_is_the_film_of_a_cpu(folder, clip, tmp_path):
    "Planes, page-locked copies and gsplat against RGB and our rasteriser: 35 dB after both were compressed"
    films = {}
    for device in ('cpu', 'cuda'):
        head = talking(folder, device)
        hu, ave = hear_clip(head, clip)
        drive = Drive(hu, ave, there_and_back(len(hu), len(head.viewmats), 80))
        films[device] = np.stack(list(read_video(write_film(head, tmp_path/f'{device}.mp4', drive, batch=16))[0])).astype(float)
    error = ((films['cpu']-films['cuda'])**2).mean((1, 2, 3))
    assert len(error)==len(hu) and error.max() < 255**2/10**3.5

# ---- several frames a step

@devices
@pytest.mark.parametrize('branch', ['face', 'mouth'])
def test_gradient_of_a_batch_is_the_mean_of_its_frames(folder, clip, device, branch):
    "One step on four frames against four on one frame each: gradients agree to a thousandth of their length, and so does what densification counts"
    head = talking(folder, device).train()
    data = TrainingData(clip, head.cfg, np.arange(80), device)
    colours = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).to(device)
    frames = torch.as_tensor(data.opening.argsort()[[-1, -10, -20, -30]].copy(), device=device)
    cloud = getattr(head, branch)
    def gradient(*batches):
        count = Densifier(cloud, head.cfg, 100)
        head.zero_grad(set_to_none=True)
        for k in batches:
            loss, r = getattr(head, f'{branch}_loss')(data, frames[k], head.listen(*data.speech(frames[k])).a, colours[k])
            (loss/len(batches)).backward()
            count.observe(dict(r.info), data.width, data.height)
        return {n:p.grad.clone() for n, p in head.named_parameters() if p.grad is not None}, count
    together, many = gradient([0, 1, 2, 3])
    alone, single = gradient([0], [1], [2], [3])
    assert together.keys()==alone.keys() and any(n.startswith('encoder') for n in alone) and any(n.startswith(branch+'_field') for n in alone)
    for name, g in alone.items():
        if g.norm() > 1e-7: assert (together[name]-g).norm() < 1e-3*g.norm(), name
    assert torch.equal(many.seen, single.seen) and many.seen.max()==4
    assert (many.pull-4*single.pull).norm() < 1e-3*many.pull.norm() > 0   # one-frame losses were divided by four
