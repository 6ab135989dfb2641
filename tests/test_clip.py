"Bad and odd input of clip: made from the sample clip, short on purpose"
import json, os, signal, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np
import pytest

from syncgaussian.clip import Clip, ClipError, load_sound, prepare_clip, read_video, write_video
from syncgaussian.clip.media import sound_between, to_mono
from syncgaussian.clip.landmarks import FACE_OVAL
from syncgaussian.clip.masks import fill_polygon, head_side, jaw_line, remove_head
from syncgaussian.clip.shots import Scan, choose_times, find_cuts, scan_video
from syncgaussian.pose import has_pose

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT/'data_samples/sample.mp4'
N = 60

@pytest.fixture(scope='session')
def images(): return np.stack([f for _,f in zip(range(N+20), read_video(SAMPLE)[0])])

@pytest.fixture(scope='session')
def wave(): return load_sound(SAMPLE)[:16000*4]

@pytest.fixture(scope='session')
def good(tmp_path_factory, images, wave):
    d = tmp_path_factory.mktemp('good')
    return write_video(d/'good.mp4', images[:N], sound=(wave[:16000*N//25], 16000)), d

@pytest.fixture(scope='session')
def prepared(good): return prepare_clip(good[0], good[1]/'clip', size=128, progress=False)

def encode(path, frames, times, codec='libx264', pix_fmt='yuv420p', **options):
    "Frames at given times (s), any codec"
    import av
    from fractions import Fraction
    with av.open(str(path), 'w') as out:
        s = out.add_stream(codec, rate=60, options=options)
        s.height, s.width, s.pix_fmt, s.time_base = *frames[0].shape[:2], pix_fmt, Fraction(1, 12000)
        s.codec_context.time_base = Fraction(1, 12000)
        for image,t in zip(frames, times):
            f = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
            f.pts, f.time_base = round(t*12000), Fraction(1, 12000)
            out.mux(s.encode(f))
        out.mux(s.encode())
    return path

def wav(path, samples, rate=16000):
    "16-bit wav of samples [S] or [S,channels]"
    import wave as w
    with w.open(str(path), 'wb') as f:
        f.setnchannels(samples.shape[1] if samples.ndim>1 else 1), f.setsampwidth(2), f.setframerate(rate)
        f.writeframes((samples*32767).astype('<i2').tobytes())
    return path

def tone(seconds, rate, hz=220): return 0.5*np.sin(2*np.pi*hz*np.arange(int(seconds*rate))/rate)

def says(error): return str(error.value)

# ---- sound

def test_stereo_48k_becomes_mono_16k(tmp_path):
    stereo = np.stack([tone(1, 48000), tone(1, 48000)], 1)
    x = load_sound(wav(tmp_path/'a.wav', stereo, 48000))
    assert x.dtype==np.float32 and abs(len(x)-16000) <= 1
    assert abs(x[1000:15000] - tone(1, 16000)[1000:15000]).max() < 0.02
    assert 0.45 < abs(x).max() < 0.55

def test_silent_speech_is_said(tmp_path):
    with pytest.warns(UserWarning, match='silent'): load_sound(wav(tmp_path/'a.wav', np.zeros(16000)))

@pytest.mark.parametrize('make,word', [
    (lambda p: p, 'no such file'), (lambda p: p.touch(), 'empty'), (lambda p: p.write_text('this is no sound'*100), 'cannot be read'),
    (lambda p: wav(p, tone(.05, 16000)), '0.05 s'), (lambda p: wav(p, np.zeros(0)), 'decoded')])
def test_bad_sound(tmp_path, make, word):
    make(tmp_path/'a.wav')
    with pytest.raises(ClipError, match=word) as e: load_sound(tmp_path/'a.wav')
    assert 'a.wav' in says(e)

def test_sound_is_cut_by_time(tmp_path, images):
    "A click at 1.5 s is found where the pictures say; sound that begins late is preceded by silence"
    x = np.zeros(48000*3, np.float32)
    x[48000*3//2:48000*3//2+48] = 0.9
    path = wav(tmp_path/'click.wav', x, 48000)
    cut = to_mono(sound_between(path, 1.0, 1.0))
    assert len(cut)==16000 and abs(int(abs(cut).argmax()) - 8000) < 20
    early = to_mono(sound_between(path, -1.0, 3.0))
    assert len(early)==48000 and abs(int(abs(early).argmax()) - 40000) < 20

# ---- video in and out

def test_written_video_reads_back(tmp_path, images, wave):
    import av
    path = write_video(tmp_path/'a.mp4', images[:30,:255,:253], sound=(wave, 16000))
    frames,info = read_video(path)
    back = np.stack(list(frames))
    assert back.shape==(30,256,254,3) and info.fps==25 and info.sound
    assert abs(back[:,:255,:253].astype(int) - images[:30,:255,:253]).mean() < 3
    assert abs(len(load_sound(path))/16000 - 30/25) < 0.03
    with av.open(str(path)) as c: assert 'synthetic' in c.metadata['comment']

def test_a_broken_writer_leaves_nothing(tmp_path, images):
    def frames():
        yield from images[:5]
        raise RuntimeError('stop')
    with pytest.raises(RuntimeError): write_video(tmp_path/'a.mp4', frames())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ClipError): write_video(tmp_path/'a.mp4', [])

def test_rotation_in_the_metadata(tmp_path, images):
    path = write_video(tmp_path/'a.mp4', [np.rot90(i) for i in images[:3,:,:200]])
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 44
    one = (1<<16).to_bytes(4, 'big', signed=True)
    minus, zero = (-(1<<16)).to_bytes(4, 'big', signed=True), bytes(4)
    data[at:at+20] = zero + one + zero + minus + zero      # a player turns it by 90 degrees clockwise
    path.write_bytes(data)
    frames,info = read_video(path)
    first = next(frames)
    assert first.shape==(256,200,3) and (info.width,info.height)==(200,256)
    assert abs(first.astype(int) - images[0,:,:200]).mean() < 3

@pytest.mark.parametrize('codec,fmt', [('libx265','yuv420p10le'), ('libx264','yuvj420p'), ('libx264','yuv444p'), ('libvpx-vp9','yuv420p')])
def test_other_codecs(tmp_path, images, codec, fmt):
    path = encode(tmp_path/'a.mkv', images[:6], np.arange(6)/25, codec, fmt, **({'x265-params':'log-level=none'} if '265' in codec else {}))
    assert abs(np.stack(list(read_video(path)[0])).astype(int) - images[:6]).mean() < 6

# ---- time

def made_scan(times, repeated=()):
    motion = np.full(len(times), 2.)
    motion[list(repeated)] = 0
    none = np.zeros((0,5), np.float32)
    return Scan(np.asarray(times), np.zeros(len(times)), motion, none, np.arange(0), np.array([256,256]))

def whole(times, step): return dict(first=0, last=len(times), start=times[0], end=times[-1]+step)

@pytest.mark.parametrize('rate', [23.976, 24, 25, 29.97, 30, 50, 60])
def test_any_rate_becomes_25(rate):
    times = 0.4 + np.arange(int(4*rate))/rate
    got,_ = choose_times(made_scan(times), whole(times, 1/rate))
    want = times[0] + np.arange(len(got))/25
    assert abs(len(got)-100) <= 1 and abs(got-want).max() <= 0.5/rate + 1e-6 and (np.diff(got)>=0).all()

@pytest.mark.parametrize('rate', [30, 50, 60])
@pytest.mark.parametrize('rounding', [np.round, np.floor])
def test_repeated_frames_are_dropped(rate, rounding):
    shown = rounding((np.arange(4*rate)*25/rate) + 1e-9).astype(int)
    times = np.arange(len(shown))/rate
    repeats = np.flatnonzero(np.diff(shown, prepend=-1)==0)
    got,share = choose_times(made_scan(times, repeats), whole(times, 1/rate))
    taken = shown[np.searchsorted(times, got-1e-6)]
    assert (np.diff(taken)==1).all() and share > 0.1

def test_uneven_times():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(1/60, 1/20, 120))
    got,_ = choose_times(made_scan(times), whole(times, 0.03))
    assert abs(got - (times[0]+np.arange(len(got))/25)).max() < 1/40

# ---- cuts and faces

def test_a_cut_is_found_and_blinking_lights_are_none(tmp_path, images):
    big = np.pad(images[:40], ((0,0),(40,40),(40,40),(0,0)), mode='edge')[:,:256,40:296]
    scan = scan_video(write_video(tmp_path/'cut.mp4', np.concatenate([images[:40], big])))
    assert find_cuts(scan.change).tolist()==[40]
    light = np.where(np.arange(60)//7%2, 0.55, 1.)[:,None,None,None]*np.array([1,1,.8])
    light[20] = 1.6
    scan = scan_video(write_video(tmp_path/'light.mp4', (images[:60]*light).clip(0,255).astype(np.uint8)))
    assert find_cuts(scan.change).tolist()==[]

def test_the_longest_shot_or_the_one_asked_for(tmp_path, images, wave):
    flipped = images[:,:,::-1]
    path = write_video(tmp_path/'a.mp4', np.concatenate([images[:52], flipped[:70]]), sound=(np.tile(wave, 2), 16000))
    c = prepare_clip(path, tmp_path/'a', size=64, progress=False)
    assert c.n_frames==70 and c.manifest.data['shot']['index']==1 and len(c.manifest.data['shots'])==2
    assert abs(len(c.wave) - 70*640) <= 1
    assert np.corrcoef(c.wave, np.tile(wave, 2)[52*640:122*640])[0,1] > 0.95
    c = prepare_clip(path, tmp_path/'a', size=64, shot=0, progress=False)
    assert c.n_frames==52
    with pytest.raises(ClipError, match='no shot 5'): prepare_clip(path, tmp_path/'a', shot=5, progress=False)
    assert Clip(tmp_path/'a').n_frames==52

def test_two_faces_in_a_wide_picture(tmp_path, images, wave):
    import cv2
    wide = np.full((N,360,640,3), 90, np.uint8)
    wide[:,52:308,330:586] = images[:N]
    wide[:,150:278,60:188] = [cv2.resize(i[:,::-1], (128,128), interpolation=cv2.INTER_AREA) for i in images[5:N+5]]
    path = write_video(tmp_path/'a.mp4', wide, sound=(wave, 16000))
    with pytest.warns(UserWarning, match='2 faces'): c = prepare_clip(path, tmp_path/'a', size=128, progress=False)
    assert c.manifest.data['shot']['faces']==2 and c.manifest.data['notes']
    crop, s = c.manifest.data['crop'], c.manifest.data['crop']['side']/128
    nose = c.landmarks[:,1,:2]*s + [crop['x'],crop['y']]
    assert c.found.mean() > 0.95 and (abs(nose - [330+128, 52+128]) < 50).all()

def test_face_gone_for_a_second(tmp_path, images, wave):
    blank = np.repeat(images[:1]//2, 30, 0)
    blank[:,20:250,40:220] = blank[:,20:250,10:11]
    path = write_video(tmp_path/'a.mp4', np.concatenate([images[:55], blank, images[:10]]), sound=(wave, 16000))
    with warnings.catch_warnings(record=True): c = prepare_clip(path, tmp_path/'a', size=64, progress=False)
    assert 50 <= c.n_frames <= 68 and c.found[:54].mean() > 0.9

# ---- what cannot be used

@pytest.mark.parametrize('make,word', [
    (lambda p,i,w: None, 'no such file'), (lambda p,i,w: p.touch(), 'empty'), (lambda p,i,w: p.write_bytes(os.urandom(5000)), 'cannot be read'),
    (lambda p,i,w: wav(p, tone(3, 16000)), 'no picture'), (lambda p,i,w: write_video(p, i), 'sound=FILE'),
    (lambda p,i,w: write_video(p, i//8*0+40, sound=(w, 16000)), 'no face'), (lambda p,i,w: write_video(p, i[:20], sound=(w, 16000)), '2 s'),
    (lambda p,i,w: write_video(p, i, sound=(w[:4000], 16000)), 'sound')])
def test_bad_video(tmp_path, images, wave, make, word):
    path = tmp_path/'v.mp4'
    make(path, images[:N], wave)
    with pytest.raises(ClipError, match=word) as e: prepare_clip(path, tmp_path/'out', size=64, progress=False)
    assert 'v.mp4' in says(e)
    with pytest.raises(ClipError): Clip(tmp_path/'out')

def test_sound_of_another_file_and_short_sound(tmp_path, images, wave):
    path = write_video(tmp_path/'v.mp4', images[:80])
    with pytest.warns(UserWarning, match='ends'): c = prepare_clip(path, tmp_path/'c', size=64, sound=wav(tmp_path/'s.wav', wave[:16000*2]), progress=False)
    assert c.n_frames==50 and len(c.wave)==32000 and len(c.landmarks)==50 and len(c.labels())==50
    c = prepare_clip(path, tmp_path/'c', size=64, sound=wav(tmp_path/'s.wav', wave[:16000*3]), progress=False)
    assert c.n_frames==80 and len(c.wave)==51200 and not c.wave[48500:].any()

def test_file_that_breaks_off(tmp_path, images, wave):
    path = write_video(tmp_path/'v.mp4', images[:80], sound=(wave, 16000), crf=8, gop=10)
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data)*0.85)])
    with warnings.catch_warnings(record=True): c = prepare_clip(path, tmp_path/'c', size=64, progress=False)
    assert 50 <= c.n_frames < 80 and len(c.frames())==c.n_frames

def test_lag_of_lips_is_measured_and_sound_shifts(prepared, good, tmp_path, monkeypatch):
    c = prepare_clip(good[0], tmp_path/'c', size=64, sound_offset=0.2, progress=False)
    assert not c.wave[:3100].any() and np.corrcoef(c.wave[3200:], prepared.wave[:-3200])[0,1] > 0.99
    a, b = prepared.manifest.data['lip_lag']['frames'], c.manifest.data['lip_lag']['frames']
    assert a in range(-15, 16) and b in range(-15, 16)

# ---- the folder

def test_clip_reads_what_was_prepared(prepared, images):
    c = prepared
    import cv2
    assert (c.n_frames, c.size, c.fps)==(N, 128, 25) and len(c)==N
    want = np.stack([cv2.resize(i, (128,128), interpolation=cv2.INTER_AREA) for i in images[:N]])
    assert abs(c.frames().astype(int) - want).mean() < 3
    assert (c.frames([40,3,3]) == c.frames()[[40,3,3]]).all() and (c.frames(7)[0] == c.frames()[7]).all()
    assert c.landmarks.shape==(N,478,3) and c.blendshapes.shape==(N,52) and c.expression.shape==(N,7) and c.found.mean() > .95
    assert c.wave.shape==(N*640,) and not has_pose(c)
    labels = c.labels()
    assert labels.shape==(N,128,128) and set(np.unique(labels)) >= {0,1,3,4}
    train,test = c.split()
    assert len(train)==54 and test.tolist()==list(range(54,60))
    x0,y0,x1,y1 = c.head_box()
    outside = (labels>=3).any(0)
    outside[y0:y1,x0:x1] = False
    assert not outside.any()
    boxes = c.mouth_box()
    assert (boxes>=0).all() and (boxes<=128).all() and len(np.unique(boxes[:,2:]-boxes[:,:2], axis=0))==1
    assert c.backdrop([0,5]).shape==(2,128,128,3)
    with pytest.raises(ClipError, match='whisper'): c.features('openai/whisper-tiny.en')

def test_opencv_reads_the_same(prepared, monkeypatch):
    want = prepared.frames([0,30,31,59])
    monkeypatch.setitem(sys.modules, 'av', None)
    assert abs(prepared.frames([0,30,31,59]).astype(int) - want).mean() < 2

def test_without_opencv(prepared, monkeypatch):
    want = prepared.backdrop([0,30])
    monkeypatch.setitem(sys.modules, 'cv2', None)
    assert (prepared.backdrop([0,30]) == want).all()

def test_a_second_run_does_nothing(prepared, good):
    before = {p: p.stat().st_mtime_ns for p in prepared.dir.rglob('*')}
    prepare_clip(good[0], prepared.dir, size=128, progress=False)
    assert before=={p: p.stat().st_mtime_ns for p in prepared.dir.rglob('*')}

def test_a_killed_run_resumes(good, tmp_path):
    code = f'from syncgaussian.clip import prepare_clip; prepare_clip({str(good[0])!r}, {str(tmp_path/"c")!r}, size=256, progress=False)'
    p = subprocess.Popen([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob('c/.labels/000005.png')) and p.poll() is None: time.sleep(0.02)
    p.send_signal(signal.SIGKILL), p.wait()
    with pytest.raises(ClipError, match='"labels"'): Clip(tmp_path/'c')
    made = (tmp_path/'c/frames.mp4').stat().st_mtime_ns
    c = prepare_clip(good[0], tmp_path/'c', size=256, progress=False)
    assert (tmp_path/'c/frames.mp4').stat().st_mtime_ns==made and len(c.labels())==N and not list(c.dir.glob('.*'))

def test_other_folders_are_refused(prepared, good, tmp_path, images, wave):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine/letter.txt').write_text('keep me')
    with pytest.raises(ClipError, match='not empty'): prepare_clip(good[0], tmp_path/'mine')
    other = write_video(tmp_path/'other.mp4', images[5:N], sound=(wave, 16000))
    with pytest.raises(ClipError, match='another source'): prepare_clip(other, prepared.dir)
    (tmp_path/'old').mkdir()
    (tmp_path/'old/manifest.json').write_text(json.dumps(prepared.manifest.data | dict(version=0)))
    for use in (lambda: Clip(tmp_path/'old'), lambda: prepare_clip(good[0], tmp_path/'old')):
        with pytest.raises(ClipError, match='format 0.*syncgaussian prepare'): use()
    (tmp_path/'old/manifest.json').write_text('{"version": 1, "st')
    with pytest.raises(ClipError, match='damaged'): Clip(tmp_path/'old')
    with pytest.raises(ClipError, match='no clip folder'): Clip(tmp_path)

def test_import_is_light():
    code = 'import sys, syncgaussian.clip; print([m for m in ("cv2","av","mediapipe","torch") if m in sys.modules])'
    out = subprocess.run([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert out.stdout.strip()=='[]'

# ---- a real clip

def test_cuts_of_a_broadcast(shared):
    scan = scan_video(shared/'talking/anchor_en_71s.mp4', every=5)
    assert find_cuts(scan.change).tolist()==[176, 1429]

# ---- where head, collar and neck meet

def jaw_scene(prepared, colour, clothes):
    "A drawn face at 512 px, and a piece of this colour between cheek and jaw line on the right, above clothes"
    p = prepared.landmarks[0]*4
    face, line = fill_polygon(p[list(FACE_OVAL),:2], 512, 512, fine=2)>.5, jaw_line(p, 512)
    f, body = np.full((512,512,3), 90, np.uint8), face.copy()
    f[face] = (200,150,130)
    columns = np.arange(int(p[397,0])+2, np.flatnonzero(face.any(0))[-1]-1)
    for x in columns:
        foot, end = np.flatnonzero(face[:,x])[-1]+1, int(line[x])
        f[foot:end,x], f[end:end+40,x], body[foot:end+40,x] = colour, clothes, True
    return f, body, face, p, columns, line

@pytest.mark.parametrize('colour,clothes,head', [((15,15,20), (15,15,20), False), ((250,250,250), (245,245,250), False), ((195,145,130), (20,20,20), True)])
def test_the_tip_of_a_collar_is_no_head(prepared, colour, clothes, head):
    f, body, face, p, columns, line = jaw_scene(prepared, colour, clothes)
    zone = body & ~face & (np.arange(512)[:,None]<line.astype(int))
    zone[:,columns[:2]] = zone[:,columns[-2:]] = False # the median over five columns rounds the corners
    share = head_side(f, body, face, p)[zone].mean()
    assert zone.sum()>15 and (share==1 if head else share<.1)

@pytest.mark.parametrize('collar', [(255,255,255), (10,10,15)])
def test_the_neck_strip_has_the_colour_of_the_neck(prepared, collar):
    "A bright or dark collar to both sides of the neck is not drawn up beside the jaw, and the strip ends low"
    f, l = prepared.frames(0)[0], prepared.labels(0)[0]
    head = l>=3
    x = np.flatnonzero(head.any(0)); bottom = 127-np.argmax(head[::-1], 0)
    neck = np.flatnonzero((l==2).any(0)); a, b = int(np.quantile(neck, .3)), int(np.quantile(neck, .7))
    for k in x:
        if not a<=k<=b: f[bottom[k]+1:,k], l[bottom[k]+1:,k] = collar, 1
    plate = np.full_like(f, 128); plate[...,0] = 0
    out = remove_head(f, l, plate)
    strip = head & (out!=plate).any(-1)
    middle = np.median(f[:,a:b+1][l[:,a:b+1]==2], 0)
    under_face = strip.copy(); under_face[:,x[l[bottom[x],x]!=3]] = False # hair may go on in its own colour
    assert under_face.sum()>100 and (abs(out[under_face].astype(float)-middle).max(-1)<110).all()
    tall = strip.sum(0)[np.flatnonzero(strip.any(0))]
    assert tall[0]<=2 and tall[-1]<=2 and tall.max()>8
