"The sync-enhanced encoder against the paper's formula, its switches and its limits"
import pytest, torch
from syncgaussian.config import course_config
from syncgaussian.encoder import *

@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 8, 2, 384, generator=g), torch.randn(6, 8, 1, 512, generator=g)

def build_as(*shape, **kw):
    torch.manual_seed(0)
    return SyncEnhancedEncoder(*shape, **kw)

def build(**kw): return build_as(384, 2, **kw)

def test_formula(batch):
    "Three rounds written out"
    e = build()
    out, x = e(*batch), None
    hu = e.text(batch[0])
    x = e.visual(batch[1])
    for r in e.adaption.encoders:
        y = r.conv((hu - x).transpose(1, 2)).transpose(1, 2)
        y = (y - y.mean(-1, keepdim=True))/(y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()*r.norm.weight + r.norm.bias
        x = torch.where(y > 0, y, .02*y)*x
    assert torch.allclose(out.adapted, x, atol=1e-5)
    assert torch.allclose(out.a, torch.einsum('bt,btd->bd', out.weights, x), atol=1e-5)

@pytest.mark.parametrize('rounds', [1, 2, 3, 4, 5])
def test_rounds(batch, rounds):
    out = build(rounds=rounds)(*batch)
    assert len(out.gates) == rounds and .4 < out.adapted.norm()/out.ave.norm() < 4

@pytest.mark.parametrize('W, D', [(2, 1024), (16, 29), (4, 80), (1, 512), (2, 384), (40, 12)])
def test_every_feature_shape(W, D):
    assert SyncEnhancedEncoder(D, W)(torch.randn(3, 8, W, D), torch.randn(3, 8, 1, 512)).a.shape == (3, 32)

@pytest.mark.parametrize('kw', [dict(use_hu=False), dict(use_ave=False)])
def test_one_feature_ignores_the_other(batch, kw):
    e, other = build(**kw), 0 if 'use_hu' in kw else 1
    changed = list(batch); changed[other] = torch.randn_like(changed[other])
    assert torch.equal(e(*batch).a, e(*changed).a) and e(*batch).a_ave is None and e.alignment_loss(e(*batch)) == 0

@pytest.mark.parametrize('stop', [True, False])
def test_stop_gradient_of_the_target(batch, stop):
    e = build(stop_gradient=stop, shared_match_attention=False)
    e.alignment_loss(e(*batch)).backward()
    touched = any(p.grad is not None and p.grad.abs().sum() > 0 for p in e.match_ave.parameters())
    assert touched != stop and all(p.grad is not None for p in e.text.parameters())

def test_shared_attention_is_one_module(batch):
    e, s = build(), build(shared_match_attention=False)
    assert e.match is e.match_ave and s.match is not s.match_ave
    assert len(e.state_dict()) < len(s.state_dict())

def test_every_parameter_learns(batch):
    e = build()
    out = e(*batch)
    (out.a.square().sum() + e.alignment_loss(out)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in e.parameters())

def test_plain_subtraction(batch):
    e = build(use_sync_adaption=False)
    out = e(*batch)
    assert torch.equal(out.adapted, out.hu - out.ave) and out.gates == () and out.a_ave is not None

def test_windows_at_the_ends():
    x = torch.arange(1., 6.).view(5, 1, 1)
    assert windows(x, torch.tensor([0]))[0,:,0,0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    assert windows(x, [4])[0,:,0,0].tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert windows(x, range(5)).shape == (5, 8, 1, 1) and windows(x[:1], [0]).sum() == 1

def test_wrong_features(batch):
    with pytest.raises(ValueError, match='audio-to-text features'): build()(batch[0][...,:80], batch[1])
    with pytest.raises(ValueError, match='width 512'): build()(batch[0], batch[1][...,:64])
    with pytest.raises(ValueError, match='at least one'): build(use_hu=False, use_ave=False)

def test_a_config_builds_its_encoder():
    "Every switch of a config reaches the encoder, and the weights are those of the same seed"
    cfg = course_config(rounds=2, shared_match_attention=False, stop_gradient=False)
    torch.manual_seed(0)
    a = encoder_from_config(cfg, (4, 80))
    b = build_as(80, 4, rounds=2, shared_match_attention=False, stop_gradient=False, audio_dim=cfg.audio_dim, window=cfg.window)
    assert a.hu_shape==(4, 80) and a.own_match_ave is not None and not a.stop_gradient and len(a.adaption.encoders)==2
    assert all(torch.equal(x, b.state_dict()[k]) for k,x in a.state_dict().items())
    for off,part in (('use_hu', 'text'), ('use_ave', 'visual'), ('use_sync_adaption', 'adaption')):
        assert getattr(encoder_from_config(course_config(**{off:False}), (4, 80)), part) is None

def test_state_round_trip(batch, tmp_path):
    from safetensors.torch import load_model, save_model
    a, b = build(), SyncEnhancedEncoder(384, 2)
    save_model(a, tmp_path/'e.safetensors'); load_model(b, tmp_path/'e.safetensors')
    assert torch.equal(a(*batch).a, b(*batch).a)

def test_board_without_a_browser():
    pytest.importorskip('ipywidgets')
    import matplotlib; matplotlib.use('agg')
    from syncgaussian.boards.encoder import encoder_board
    board = encoder_board(torch.randn(20, 2, 16), torch.randn(20, 1, 512))
    assert set(board.summary) == {'hu', 'ave', 'adapted', 'a', 'a_ave'}
    assert board.still[:4]==b'\x89PNG' and 'image/png' in board._repr_mimebundle_()
    board.boxes['use_sync_adaption'].value = False
    assert board.summary['adapted'][1] == 0 and board.rounds.disabled and 'w/o sync adaption' in board.message.value
    board.boxes['use_ave'].value = False
    assert 'a_ave' not in board.summary and board.boxes['L_ah'].disabled and '<s>' in board.table.value
    board.boxes['use_hu'].value = False
    assert 'role="alert"' in board.message.value and board.table.value == ''
    for box in board.boxes.values(): box.value = True
    assert set(board.summary) == {'hu', 'ave', 'adapted', 'a', 'a_ave'}

def test_a_switch_leaves_the_other_parts_alone():
    "The board shows the switch, not another throw of the dice"
    pytest.importorskip('ipywidgets')
    from syncgaussian.boards.encoder import board_encoder
    hu, ave = torch.randn(20, 2, 16), torch.randn(20, 1, 512)
    full, less = board_encoder(hu, ave), board_encoder(hu, ave, rounds=5, use_sync_adaption=False, shared_match_attention=False)
    for k, v in less.state_dict().items():
        if k in full.state_dict(): assert torch.equal(v, full.state_dict()[k]), k

def test_features_start_at_one_size(batch):
    "Whatever the inputs' offsets and sizes are, both features vary by 1 and survive saving"
    g = torch.Generator().manual_seed(1)
    hu, ave = 5 + .01*torch.randn(300, 2, 384, generator=g), 100*torch.randn(300, 1, 512, generator=g) - 7
    hu[:,:,3] = 2
    e = build().fit_inputs(hu, ave)
    out = e(windows(hu, range(10, 290)), windows(ave, range(10, 290)))
    for x in (out.hu, out.ave): assert abs(x[:,4].std(0).square().mean().sqrt() - 1) < .1 and torch.isfinite(x).all()
    again = build(); again.load_state_dict(e.state_dict())
    assert torch.equal(again(windows(hu, [50]), windows(ave, [50])).a, e(windows(hu, [50]), windows(ave, [50])).a)

def test_alignment_leaves_match_attention_alone():
    "L_ah pulls at the gates; Match-ATT's weights only follow it where the switch lets them"
    for stop in (True, False):
        torch.manual_seed(0)
        e = SyncEnhancedEncoder(hu_dim=16, hu_window=2, stop_gradient=stop)
        out = e(torch.randn(4, 8, 2, 16), torch.randn(4, 8, 1, 512))
        e.alignment_loss(out).backward()
        moved = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in (e.adaption.encoders[0].conv.weight, e.match.linear.weight, e.match.convs[0].weight)]
        assert moved == [True, not stop, not stop]

def test_every_layer_starts_at_unit_size():
    "What each layer of both nets says of the training frames varies by 1 around 0, and Match-ATT starts as a bell around the frame"
    hu, ave = torch.randn(200, 2, 16)*torch.linspace(.1, 9, 16)+3, torch.randn(200, 1, 512)*4
    e = SyncEnhancedEncoder(hu_dim=16, hu_window=2).fit_inputs(hu, ave)
    for net, x in ((e.text, e.text.standardise(hu).transpose(1, 2)), (e.visual, e.visual.standardise(ave).flatten(1))):
        for part in ([net.convs, net.fc] if net is e.text else [net.fc]):
            if part is net.fc and x.dim()==3: x = x.mean(-1)
            for layer in part:
                x = layer(x)
                if hasattr(layer, 'weight'): assert abs(x.std([d for d in range(x.dim()) if d!=1]).square().mean().sqrt()-1) < .02 and x.mean().abs() < .02
    weights = e.match(torch.zeros(1, 8, 32))[1][0]
    assert weights.argmax() == 4 and (weights[:4].diff() > 0).all() and (weights[4:].diff() < 0).all()
