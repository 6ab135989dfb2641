"Whole videos of every kind, made from the sample: each gives a good clip, or one clear sentence"
import warnings

import numpy as np
import pytest

from syncgaussian.clip import ClipError, LABELS, load_sound, prepare_clip, read_video, write_video
from syncgaussian.samples import sample_clip_path
from syncgaussian.pose import estimate_head_pose, pose_jitter
from test_clip import encode, wav

N = 60 # 2.4 s

@pytest.fixture(scope='module')
def images(): return np.stack([f for _,f in zip(range(160), read_video(sample_clip_path())[0])])

@pytest.fixture(scope='module')
def wave(): return load_sound(sample_clip_path())

@pytest.fixture(scope='module')
def sound(tmp_path_factory, wave): return wav(tmp_path_factory.mktemp('sound')/'speech.wav', wave[:16000*4])

@pytest.fixture(scope='module')
def reference(tmp_path_factory, images, sound):
    d = tmp_path_factory.mktemp('reference')
    return prepare_clip(write_video(d/'v.mp4', images[:N]), d/'clip', size=128, sound=sound, progress=False)

def quietly(path, out, size=128, **more):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); return prepare_clip(path, out, size=size, progress=False, **more)

def numbered(images):
    "Frames that carry their number as grey blocks along the upper edge"
    out = images.copy()
    for k,i in enumerate(out):
        for b in range(8): i[:8,32*b:32*b+32] = 150 if k>>b&1 else 90
    return out

def numbers(clip):
    "The numbers read back [T]"
    rows = clip.frames()[:,1:3].mean((1,3)).reshape(clip.n_frames, 8, -1)[:,:,4:-4].mean(-1)
    return ((rows>120)*2**np.arange(8)).sum(1)

def is_good(clip, reference, n=N):
    "A whole clip: every frame with a face and a head, sound in step, the mouth moving as in the reference"
    assert abs(clip.n_frames-n)<=1 and len(clip.wave)==clip.n_frames*640 and clip.found.mean()>.95
    m = min(clip.n_frames, reference.n_frames)
    assert np.corrcoef(clip.wave[:m*640], reference.wave[:m*640])[0,1]>.95
    s = clip.size/reference.size
    assert np.corrcoef(clip.mouth_opening()[:m], reference.mouth_opening()[:m]*s)[0,1]>.8
    assert np.isfinite(clip.landmarks).all() and all((l>=LABELS['face']).mean()>.05 for l in clip.labels([0, m//2, m-1]))

# ---- frame rates

@pytest.mark.parametrize('rate', [24000/1001, 30000/1001, 50, 60])
def test_frame_rates(tmp_path, images, sound, reference, rate):
    t = np.arange(int(N/25*rate))/rate; shown = np.floor(t*25+1e-6).astype(int)
    c = quietly(encode(tmp_path/'v.mp4', numbered(images)[shown], t), tmp_path/'c', sound=sound)
    is_good(c, reference)
    assert abs(numbers(c)-np.arange(c.n_frames)).max()<=1 # never more than a frame off

def test_thirty_with_repeated_frames_is_the_original(tmp_path, images, sound, reference):
    shown = np.round(np.arange(N*30//25)*25/30).astype(int).clip(0, N-1)
    with pytest.warns(UserWarning, match='repeat the one before'):
        c = prepare_clip(encode(tmp_path/'v.mp4', numbered(images)[shown], np.arange(len(shown))/30), tmp_path/'c', size=128, sound=sound, progress=False)
    is_good(c, reference)
    assert (numbers(c)==np.arange(c.n_frames)).all()

def test_variable_frame_rate(tmp_path, images, sound, reference):
    t = np.cumsum(np.random.default_rng(0).uniform(1/60, 1/22, 200)); t = np.r_[0, t[t<N/25]]
    c = quietly(encode(tmp_path/'v.mp4', numbered(images)[np.floor(t*25+1e-6).astype(int)], t), tmp_path/'c', sound=sound)
    is_good(c, reference)
    assert abs(numbers(c)-np.arange(c.n_frames)).max()<=2

# ---- pictures

def test_rotation_metadata(tmp_path, images, sound, reference):
    path = write_video(tmp_path/'v.mp4', [np.rot90(i) for i in images[:N]])
    data = bytearray(path.read_bytes()); at = data.index(b'tkhd')+44
    one, zero = (1<<16).to_bytes(4, 'big'), bytes(4)
    data[at:at+20] = zero+one+zero+(-(1<<16)).to_bytes(4, 'big', signed=True)+zero # a player turns it upright
    path.write_bytes(data)
    c = quietly(path, tmp_path/'c', sound=sound)
    is_good(c, reference)
    assert abs(c.landmarks-reference.landmarks)[...,:2].mean()<1

@pytest.mark.parametrize('h,w', [(255,231), (241,256)])
def test_odd_sizes(tmp_path, images, sound, reference, h, w):
    y, x = (256-h)//2, (256-w)//2
    c = quietly(encode(tmp_path/'v.mkv', images[:N,y:y+h,x:x+w], np.arange(N)/25, pix_fmt='yuv444p'), tmp_path/'c', sound=sound)
    is_good(c, reference)

def test_ten_bit_hevc(tmp_path, images, sound, reference):
    options = {'preset':'ultrafast', 'x265-params':'log-level=none'}
    is_good(quietly(encode(tmp_path/'v.mkv', images[:N], np.arange(N)/25, 'libx265', 'yuv420p10le', **options), tmp_path/'c', sound=sound), reference)

def test_four_k(tmp_path, images, sound, reference):
    import cv2
    def wide(i):
        out = np.full((2160,3840,3), 120, np.uint8); out[200:1800,1100:2700] = cv2.resize(i, (1600,1600), interpolation=cv2.INTER_LINEAR); return out
    c = quietly(write_video(tmp_path/'v.mp4', map(wide, images[:51]), crf=28), tmp_path/'c', sound=sound)
    is_good(c, reference, 51)
    assert c.manifest.data['crop']['side']>1000 and c.manifest.data['crop']['side']<=2160

# ---- what happens in front of the camera

def with_pose(clip, still=.3):
    "Poses are numbers, face the camera and hold still"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); p = estimate_head_pose(clip, save=False)
    assert np.isfinite(p.viewmats).all() and (p.viewmats[:,2,2]<0).all() and (p.viewmats[:,2,3]>0).all()
    assert pose_jitter(p.viewmats).rotation<min(still, .6*pose_jitter(p.rough_viewmats).rotation)

def test_a_hand_crosses_the_face(tmp_path, images, sound, reference):
    import cv2
    film = images[:N].copy(); skin = tuple(int(v) for v in np.median(images[0][110:120,120:140].reshape(-1,3), 0))
    for k in range(22, 38):
        x = 290-(k-22)*20
        cv2.ellipse(film[k], (x,140), (34,48), 0, 0, 360, skin, -1); cv2.rectangle(film[k], (x-18,180), (x+18,256), skin, -1)
    c = quietly(write_video(tmp_path/'v.mp4', film), tmp_path/'c', sound=sound)
    assert c.n_frames==N and np.isfinite(c.landmarks).all()
    free = np.r_[0:18, 42:N]
    assert np.median(abs(c.landmarks-reference.landmarks)[free][...,:2])<1
    with_pose(c)

def test_blinking_lights(tmp_path, images, sound, reference):
    light = np.where(np.arange(N)//6%2, .6, 1.)[:,None,None,None]*np.array([1,1,.85])
    c = quietly(write_video(tmp_path/'v.mp4', (images[:N]*light).astype(np.uint8)), tmp_path/'c', sound=sound)
    is_good(c, reference)
    assert len(c.manifest.data['shots'])==1 and not c.manifest.data['cuts']
    with_pose(c)

def test_the_head_leaves_and_comes_back(tmp_path, images, sound):
    "The head walks out of the picture for a second: the longer stretch is kept, and said"
    way = np.r_[np.zeros(70), np.linspace(0, 255, 5), np.full(25, 255), np.linspace(255, 0, 5), np.zeros(20)].astype(int)
    film = np.stack([np.concatenate([i, np.repeat(i[:,-1:], 256, 1)], 1)[:,s:s+256] for i,s in zip(images, way)])
    c = quietly(write_video(tmp_path/'v.mp4', film), tmp_path/'c', sound=sound)
    assert 65<=c.n_frames<=90 and c.found[:65].mean()>.95 and np.isfinite(c.landmarks).all()
    with_pose(c, .5)

def framings(images, length, count):
    "The same person, framed anew every `length` frames"
    cut = lambda i,k: np.pad(i, ((40*(k%2),0),(30*(k%3),0),(0,0)), mode='edge')[:256,:256]
    return np.stack([cut(images[k%len(images)], k//length) for k in range(length*count)])

def test_a_cut_every_two_seconds(tmp_path, images, wave):
    path = write_video(tmp_path/'v.mp4', framings(images, 50, 3), sound=(wave[:16000*6], 16000))
    c = quietly(path, tmp_path/'c')
    assert c.n_frames in (49,50) and len(c.manifest.data['cuts'])==2 and len(c.manifest.data['shots'])==3
    path = write_video(tmp_path/'w.mp4', framings(images, 25, 4), sound=(wave[:16000*4], 16000))
    with pytest.raises(ClipError, match='2 s without a cut'): quietly(path, tmp_path/'d')

# ---- sound from another file

def test_sound_of_another_offset_is_said_and_mended(tmp_path, wave):
    frames = write_video(tmp_path/'v.mp4', read_video(sample_clip_path())[0])
    early = wav(tmp_path/'early.wav', np.r_[wave[int(.4*16000):], np.zeros(16000*5, np.float32)]) # starts 0.4 s late: everything is heard too early; longer than the film
    with pytest.warns(UserWarning, match=r'sound_offset=0\.4'): c = prepare_clip(frames, tmp_path/'c', size=64, sound=early, progress=False)
    assert c.n_frames==300 and len(c.wave)==300*640 and abs(c.manifest.data['lip_lag']['frames']-10)<=1
    c = quietly(frames, tmp_path/'c', 64, sound=early, sound_offset=.4)
    assert abs(c.manifest.data['lip_lag']['frames'])<=1 and np.corrcoef(c.wave[16000:], wave[16000:300*640])[0,1]>.99
