"The viewer's plain functions, away from any browser"
import json, os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch

from syncgaussian.files import static_file
from syncgaussian.splat import Gaussians
from syncgaussian.show.pictures import image_grid, to_uint8
from syncgaussian.show.widgets import FramePlayer, wav_bytes, wave_peaks, widget_script
from syncgaussian.show.viewer import (SplatViewer, cloud_message, front_camera, orbit, pack_gaussians, playback_frames,
                                      still_picture)

@pytest.fixture
def cloud():
    torch.manual_seed(0)
    return Gaussians.from_points(torch.randn(50,3)*.05, torch.rand(50,3), scale=.01, sh_degree=1, opacity=.8)

@pytest.mark.parametrize('name', ['splat_viewer.js', 'frame_player.js', 'widgets.css'])
def test_static_files_are_small_and_talk_to_nobody(name):
    text = static_file(name).read_text()
    assert len((text if name.endswith('.css') else widget_script(name)).encode()) < 30_000 # with what all widgets share
    assert not any(o in text for o in ('http://', 'https://', 'import ', 'fetch(', 'XMLHttpRequest', 'WebSocket', 'eval('))

@pytest.mark.parametrize('picture', [np.zeros((4,5)), np.full((4,5,3), np.nan), torch.ones(4,5,3)*2, torch.zeros(4,5,3, requires_grad=True), np.ones((4,5), bool)])
def test_any_picture_becomes_bytes(picture):
    got = to_uint8(picture)
    assert got.dtype==np.uint8 and got.shape==tuple(picture.shape)

@pytest.mark.parametrize('n,cols', [(1,None), (7,None), (5,2)])
def test_image_grid_of_any_number(n, cols):
    fig = image_grid([np.random.rand(8,6,3)]*n, titles=['x'], cols=cols)
    assert len(fig.axes) >= n
    import io
    file = io.BytesIO()
    fig.savefig(file, format='png', bbox_inches='tight')
    assert file.getvalue()[:4]==b'\x89PNG'

def test_image_grid_saves_to_a_path(tmp_path):
    image_grid([np.zeros((8,8))]).savefig(tmp_path/'a.png')
    assert (tmp_path/'a.png').stat().st_size > 100

@pytest.mark.parametrize('wave', [np.zeros(0), np.zeros(3), np.full(100, np.nan), torch.randn(1000)*5])
def test_any_sound(wave):
    assert wav_bytes(wave)[:4]==b'RIFF'
    assert len(wave_peaks(wave)) <= 1200

def test_one_gaussian(cloud):
    one = cloud.select(slice(0,1))
    viewer = SplatViewer(one)
    assert viewer.still[:4]==b'\x89PNG' and front_camera(one.means).viewmats.isfinite().all()

def test_attention_of_one_layer_only(cloud):
    layers = dict(face=cloud, mouth=cloud)
    camera = front_camera(cloud.means)
    head, buffers = cloud_message(layers, camera, torch.zeros(3), attention=dict(face=torch.ones(50,2)))
    weights = np.frombuffer(buffers[4], np.uint8).reshape(-1,2)
    assert (weights[:50]==255).all() and (weights[50:]==0).all()
    assert [o['start'] for o in head['layers']]==[0,50]
    json.dumps(head)

def test_the_first_layer_hides_the_second(cloud):
    camera = front_camera(cloud.means, 32)
    near, far = cloud.select(slice(None)), cloud.select(slice(None))
    near.logit_opacities.data[:] = far.logit_opacities.data[:] = 8
    far.means.data[:,2] += .1  # nearer to the camera, but the layer behind
    rgb, alpha = still_picture(dict(near=near, far=far), camera)
    alone, a = still_picture(dict(near=near), camera)
    covered = a[...,0] > .99
    assert covered.any() and (rgb-alone).abs()[covered].max() < .02

def test_two_layers_of_motion_are_laid_end_to_end(cloud):
    still = (cloud.means.detach()[None], cloud.quats, cloud.scales)
    moving = (cloud.means.detach()+torch.linspace(0,.1,7)[:,None,None], cloud.quats, cloud.scales)
    motion = playback_frames(dict(face=still, mouth=moving))
    assert motion.means.shape==(7,100,3)
    step = (motion.hi-motion.lo)/65535
    assert np.abs(motion.decode(6)[50:]-moving[0][6].numpy()).max() < step.max()
    assert np.abs(motion.decode(6)[:50]-still[0][0].numpy()).max() < step.max()

def test_orbit_goes_round_and_comes_back(cloud):
    camera, target = front_camera(cloud.means), torch.tensor([.01,.02,.03])
    assert torch.allclose(orbit(camera, target, 2*np.pi).viewmats, camera.viewmats, atol=1e-5)
    back = orbit(orbit(camera, target, .7), target, -.7)
    assert torch.allclose(back.viewmats, camera.viewmats, atol=1e-5)

def test_state_stays_small(cloud):
    viewer = SplatViewer(cloud, motion=playback_frames((cloud.means.detach()[None].repeat(200,1,1), cloud.quats, cloud.scales)), sound=(np.zeros(160000), 16000))
    state = viewer.get_state()
    assert sum(len(o) for o in state.values() if isinstance(o, (bytes, str))) < 100_000

def test_repr_without_and_with_a_front_end(cloud, monkeypatch):
    viewer = SplatViewer(cloud)
    monkeypatch.delenv('IN_TEST', raising=False)
    assert {'image/png', 'application/vnd.jupyter.widget-view+json'} <= set(viewer._repr_mimebundle_()[0])
    monkeypatch.setenv('IN_TEST', '1')
    one, two = viewer._repr_mimebundle_()[0], SplatViewer(cloud)._repr_mimebundle_()[0]
    assert one==two and 'application/vnd.jupyter.widget-view+json' not in one

def test_player_of_floats_lists_and_one_film():
    player = FramePlayer([np.random.rand(16,24,3) for _ in range(30)])
    assert [len(player.chunk_bytes(k)) for k in (0,1,2)]==[25,5,0]
    assert player.chunk_bytes(0)[0][:2]==b'\xff\xd8'
    player.hear(dict(kind='hello')); player.hear(dict(kind='frames', chunk=0, token=player.token))

def test_pack_is_little_endian_and_normalised(cloud):
    cloud.quats.data *= 7
    packed = pack_gaussians(cloud)
    quats = np.frombuffer(packed['quats'], '<f2').reshape(-1,4)
    assert np.allclose(np.linalg.norm(quats.astype(float), axis=1), 1, atol=2e-3) and packed['attention']==b''
