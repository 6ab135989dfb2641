"Drawing, compressing and writing at the same time: order, errors, planes; and the same on a GPU"
import copy, itertools, threading, time
from fractions import Fraction

import numpy as np
import pytest
import torch

av = pytest.importorskip('av')
from syncgaussian.clip import ClipError, read_frames, read_video, write_video
from syncgaussian.clip.media import encode_video, in_thread
from syncgaussian.config import course_config, override
from syncgaussian.encoder import windows
from syncgaussian.samples import driving_speech_path, sample_clip_path
from syncgaussian.splat import Gaussians
from syncgaussian.synthesis import Drive, SynthesisError, drive_with_clip, render_frames, synthesize
from syncgaussian.synthesis.drive import all_windows, box_views, hear_clip, moved_clouds, planes_from_rgb, rgb_from_planes, there_and_back
from syncgaussian.synthesis.film import backdrop_reader, write_film
from syncgaussian.training import load_head, train

TINY = override(course_config(), n_face=600, n_mouth=100, canonical_frames=8, motion_frames=60, finetune_frames=4, batch=2, densify_every=8, ave_seconds=2., lpips_patch=48)

@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    from syncgaussian.preparation import prepare
    return prepare(sample_clip_path(), tmp_path_factory.mktemp('film')/'clip', size=128, max_seconds=4, progress=False)

@pytest.fixture(scope='module')
def head(clip, tmp_path_factory): return train(clip, tmp_path_factory.mktemp('film')/'head', TINY, device='cpu', progress=False)

def psnr(a, b): return 10*np.log10(255**2/((a.astype(float)-b)**2).mean())
def frames_of(path): return np.stack(list(read_video(path)[0]))
def numbered(n): return [np.full((64, 64, 3), 5*k%230+10, np.uint8) for k in range(n)]

# ---- two threads

def test_frames_come_back_in_order_and_as_without_the_thread(tmp_path):
    a = frames_of(write_video(tmp_path/'a.mp4', iter(numbered(70)), threads=2))
    encode_video(tmp_path/'b.mp4', iter(numbered(70)), Fraction(25), None, True, dict(crf='16', preset='veryfast', g='100'), 2, 'yuv420p')
    assert np.array_equal(a, frames_of(tmp_path/'b.mp4'))
    assert abs(a.mean((1,2,3))-np.array([i.mean() for i in numbered(70)])).max() < 3

@pytest.mark.parametrize('bad', ['preset', 'frame'])
def test_a_failing_encoder_ends_the_drawing(tmp_path, bad):
    "An endless film must not go on when nobody can write it"
    drawn = []
    def frames():
        for k in itertools.count():
            drawn.append(k)
            yield np.zeros((64, 64, 3), np.float64 if bad=='frame' and k==30 else np.uint8)
    with pytest.raises((ValueError, OSError)): write_video(tmp_path/'a.mp4', frames(), preset='instant' if bad=='preset' else 'veryfast')
    assert len(drawn) < 80 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_interrupted_drawing_leaves_no_file_and_no_thread(tmp_path, error):
    before = threading.active_count()
    def frames():
        yield from numbered(40)
        raise error('enough')
    with pytest.raises(error, match='enough'): write_video(tmp_path/'a.mp4', frames())
    assert not list(tmp_path.iterdir()) and threading.active_count()==before

def test_few_frames_wait():
    made, ahead = itertools.count(), []
    def slow(items):
        for k, _ in enumerate(items): time.sleep(0.002); ahead.append(last[0]-k)
        return 'done'
    last = [0]
    def items():
        for k in range(100): last[0] = k; yield k
    assert in_thread(slow, items(), n=4)=='done' and len(ahead)==100 and max(ahead) <= 6

def test_presets_differ_in_size_alone(tmp_path):
    frames = frames_of(sample_clip_path())[:50]
    sizes, scores = {}, {}
    for preset in ('ultrafast', 'veryfast'):
        path = write_video(tmp_path/f'{preset}.mp4', frames, preset=preset)
        sizes[preset], scores[preset] = path.stat().st_size, psnr(frames_of(path), frames)
    assert sizes['ultrafast'] > 1.5*sizes['veryfast'] and min(scores.values()) > 38

# ---- planes

def test_planes_are_what_the_film_stores():
    "Our conversion against FFmpeg's, both ways"
    image = frames_of(sample_clip_path())[:4]
    theirs = np.stack([av.VideoFrame.from_ndarray(i, format='rgb24').to_ndarray(format='yuv420p') for i in image])
    ours = np.empty_like(theirs)
    for v, x in zip(box_views(ours, (0, 0, 256, 256)), planes_from_rgb(torch.from_numpy(image))): v[...] = x.numpy()
    assert abs(ours.astype(int)-theirs).mean() < 1
    back = rgb_from_planes(*(torch.from_numpy(v.copy()) for v in box_views(theirs, (0, 0, 256, 256)))).numpy()
    wanted = np.stack([av.VideoFrame.from_ndarray(p, format='yuv420p').to_ndarray(format='rgb24') for p in theirs])
    assert abs(back-wanted).mean() < 1.5 and psnr(back, image) > psnr(wanted, image)-1

def test_box_of_planes_is_a_view():
    frames = np.zeros((2, 96, 64), np.uint8)
    bright, colour = box_views(frames, (16, 32, 48, 64))
    bright[...], colour[:, 0], colour[:, 1] = 1, 2, 3
    image = av.VideoFrame.from_ndarray(frames[1], format='yuv420p')
    y, u, v = (np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[:, :p.width] for p in image.planes)
    for plane, value, f in ((y, 1, 1), (u, 2, 2), (v, 3, 2)):
        wanted = np.zeros_like(plane); wanted[32//f:64//f, 16//f:48//f] = value
        assert np.array_equal(plane, wanted)

def test_a_film_of_planes_is_the_film(head, clip, tmp_path):
    hu, ave = hear_clip(head, clip)
    scene = there_and_back(len(hu), len(head.viewmats), 90)[:40]
    drive, films = Drive(hu, ave, scene), {}
    for planes in (False, True):
        batches = list(render_frames(head, drive, backdrop_reader(head, planes=planes)))
        films[planes] = frames_of(write_video(tmp_path/'a.mp4', (f for b in batches for f in b)))
        if not planes: drawn = np.concatenate(batches)
    assert films[True].shape==drawn.shape and psnr(films[True], films[False]) > 38
    assert psnr(films[True], drawn) > psnr(films[False], drawn)-1

# ---- another speech window than the usual

def test_the_window_of_the_config_is_the_one_that_is_heard(clip, tmp_path):
    "A head that sees five frames (i-2 to i+2): trained, drawn and driven with five"
    cfg = override(TINY, window=5, motion_frames=8)
    head = train(clip, tmp_path/'head', cfg, device='cpu', progress=False)
    hu, ave = hear_clip(head, clip)
    i = torch.tensor([30, 60])
    drawn = next(render_frames(head, Drive(hu, ave, i.numpy(), rows=i.numpy()), backdrop_reader(head)))
    under = torch.from_numpy(box_views(read_frames(head.dir/'backdrop.mp4', i.numpy()), head.box)[0].copy())/255
    with torch.no_grad():
        wanted = head(head.scene_camera(i), *(windows(x, i, 5) for x in (hu, ave)), head.expression[i], under)
        assert abs(torch.from_numpy(box_views(drawn, head.box)[0]/255)-wanted.clamp(0, 1)).max() < 1/255
        listen = lambda hu: head.listen(all_windows(hu, 5)[i], all_windows(ave, 5)[i]).a[0]
        near, far = hu.clone(), hu.clone()
        near[32] += 1; far[33] += 1
        assert torch.equal(listen(hu), listen(far)) and not torch.equal(listen(hu), listen(near))
    with pytest.raises(ValueError, match='windows of 5 frames'): head.listen(windows(hu, i), windows(ave, i))
    assert len(frames_of(synthesize(head, driving_speech_path(), tmp_path/'a.mp4', device='cpu', progress=False)))==150

@pytest.mark.parametrize('size', [1, 2, 5, 8, 11])
def test_all_windows_of_every_size(size):
    x = torch.randn(13, 2, 3)
    assert torch.equal(all_windows(x, size), windows(x, torch.arange(13), size))

# ---- backdrops ahead

def test_backdrops_in_any_order(head):
    n = len(head.viewmats)
    everything = read_frames(head.dir/'backdrop.mp4', np.arange(n))
    read = backdrop_reader(head)
    for idx in (there_and_back(8, n, 95), [7], [99, 0, 51, 50], there_and_back(9, n, 60), [0], np.arange(n), np.arange(n)[::-1]):
        assert np.array_equal(read(idx), everything[np.asarray(idx)])

def test_a_broken_backdrop_is_said(head, tmp_path):
    import shutil
    shutil.copytree(head.dir, tmp_path/'head')
    (tmp_path/'head/backdrop.mp4').write_bytes(b'nothing')
    broken = load_head(tmp_path/'head')
    with pytest.raises(ClipError, match='backdrop.mp4'): synthesize(broken, driving_speech_path(), tmp_path/'a.mp4', device='cpu', progress=False)
    assert not list(tmp_path.glob('*.mp4'))

def test_write_film_writes_every_frame_and_the_sound(head, tmp_path):
    hu, ave = torch.zeros(53, *head.hu_shape), torch.zeros(53, 1, 512)
    path = write_film(head, tmp_path/'new'/'a.mp4', Drive(hu, ave, np.arange(53)), sound=(np.zeros(53*640, np.float32), 16000), preset='ultrafast')
    frames, info = read_video(path)
    assert len(list(frames))==53 and info.sound

def test_a_field_in_pieces_is_the_field(head):
    "A CPU asks for 2048 points at a time: copies of a cloud, cut where no copy ends, move as the one cloud does that is asked at once"
    few, many, copies = copy.deepcopy(head), copy.deepcopy(head), dict(face=4, mouth=30)
    for (name,n),size in zip(copies.items(), (700, 90)):
        cloud = [p[:size].detach() for p in getattr(head, name).parameters()]
        setattr(few, name, Gaussians(*cloud))
        setattr(many, name, Gaussians(*(torch.cat([p]*n) for p in cloud)))
    hu, ave, i = torch.randn(3, 8, *head.hu_shape), torch.randn(3, 8, 1, 512), torch.tensor([0, 30, 60])
    def clouds(head):
        places = head.face_field.places(head.face.means), head.mouth_field.places(head.mouth.means)
        return moved_clouds(head, places, hu, ave, torch.zeros(3), head.expression[i], head.viewmats[i], joined=False)
    with torch.no_grad():
        for n,whole,parts in zip(copies.values(), clouds(few), clouds(many)):
            for a,b in zip(whole, parts): torch.testing.assert_close(torch.cat([a]*n, 1), b, atol=1e-6, rtol=1e-5)

def test_a_clip_drives_its_own_frames(head, clip):
    "`drive_with_clip` says in each recorded frame what was said there"
    drive = drive_with_clip(head, clip, [5, 9, 10])
    hu, ave = hear_clip(head, clip)
    assert torch.equal(drive.hu, hu) and torch.equal(drive.ave, ave) and len(drive.silence)==clip.n_frames
    assert drive.scene.tolist()==drive.rows.tolist()==[5, 9, 10]

def test_articulation_moves_the_mouth_from_its_usual_place(head, tmp_path):
    "0 is the usual mouth, 1 what was learnt, 2 twice as far; a pause closes the mouth whatever is asked; nonsense is refused before anything is heard"
    hu, ave = torch.randn(3, 8, *head.hu_shape), torch.randn(3, 8, 1, 512)
    with torch.no_grad(): still, learnt, twice, closed = (head.listen(hu, ave, silence, x).a for silence, x in ((None, 0.), (None, 1.), (None, 2.), (torch.ones(3), 2.)))
    torch.testing.assert_close(still, head.usual.expand(3, -1))
    torch.testing.assert_close(twice-head.usual, 2*(learnt-head.usual), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(closed, head.closed.expand(3, -1), atol=1e-5, rtol=1e-5)
    for x in (-1, 9, float('nan')):
        with pytest.raises(SynthesisError, match='articulation'): synthesize(head, 'no such file', tmp_path/'a.mp4', device='cpu', articulation=x)

@pytest.mark.parametrize('name', ['film.mp4', 'film.mov', 'film', 'a.b.webm'])
def test_a_film_lies_under_the_name_that_was_asked_for(tmp_path, name):
    "And no other file of the folder is touched, whatever the ending: what is written is an mp4"
    (tmp_path/'other.mp4').write_bytes(b'mine')
    neighbour = (tmp_path/name).with_suffix('.mp4')
    if neighbour.name!=name: neighbour.write_bytes(b'mine too')
    path = write_video(tmp_path/name, [np.zeros((16, 16, 3), np.uint8)]*3)
    assert path==tmp_path/name and len(list(read_video(path)[0]))==3
    assert {p.name for p in tmp_path.iterdir()}=={name, 'other.mp4', neighbour.name}
    if neighbour.name!=name: assert neighbour.read_bytes()==b'mine too'
