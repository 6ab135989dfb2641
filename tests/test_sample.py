"The shipped sample clip: what it promises, and that the maker keeps it"
import numpy as np, pytest

from syncgaussian.assets import AssetError
from syncgaussian.clip import BLENDSHAPES, detect_landmarks, load_sound, read_video
from syncgaussian.samples import driving_speech, sample_clip_path, sample_file, sample_speech, sample_truth
from syncgaussian.pose.geometry import canonical_face, project_points
from syncgaussian.puppet import make_sample_clip

@pytest.fixture(scope='module')
def frames(): return np.stack(list(read_video(sample_clip_path())[0]))

@pytest.fixture(scope='module')
def truth(): return sample_truth()

@pytest.fixture(scope='module')
def seen(frames): return detect_landmarks(frames[::3])

def test_files_are_small():
    assert sample_clip_path().stat().st_size < 1.5e6
    assert sum(sample_file(f).stat().st_size for f in ('truth.npz', 'driving.wav', 'sample_speech.wav', 'sample_phones.json')) < 1.5e6

def test_video_stream(frames):
    import av
    assert frames.shape==(300,256,256,3)
    with av.open(str(sample_clip_path())) as f:
        v,a = f.streams.video[0],f.streams.audio[0]
        assert (v.codec_context.name, a.codec_context.name, float(v.average_rate))==('h264', 'aac', 25)
        assert 'synthetic' in f.metadata['comment']

def test_sound():
    wave,phones = sample_speech()
    track,driving = load_sound(sample_clip_path()), load_sound(sample_file('driving.wav'))
    assert len(wave)==12*16000 and abs(len(track)-len(wave))<3200 and len(driving)==6*16000
    n = min(len(track), len(wave))
    shift = np.argmax([np.dot(track[2000+k:n-2000+k], wave[2000:n-2000]) for k in range(-1600, 1600, 40)])*40-1600
    assert abs(shift)<=640, 'sound and frames are out of step by more than a frame'
    assert phones[0][1]>=0 and phones[-1][2]<=12 and all(a<b for _,a,b in phones)

def test_phones_of_the_driving_sentence_lie_on_its_sound():
    "In order, inside the sound; vowels are loud, and nothing is labelled where the sound is silent"
    wave,phones = driving_speech()
    begin,end = np.array([o[1:] for o in phones]).T
    assert (begin<end).all() and (begin[1:]>=end[:-1]-1e-6).all() and 0<begin[0] and end[-1]<len(wave)/16000
    level = lambda a,b: float(np.sqrt((wave[int(a*16000):int(b*16000)]**2).mean()))
    vowels = [level(a,b) for p,a,b in phones if p[0] in 'aAeEiIoOuU0V']
    assert len(vowels)>10 and min(vowels) > 4*level(0, begin[0]-.05)+.02 and level(end[-1]+.1, 6) < .01

def test_the_synthesiser_says_the_same_again(project):
    "Where espeak-ng is installed in the version that was used: sounds within one step of 16 bit, phones equal"
    import ctypes, runpy
    try: about = ctypes.CDLL('libespeak-ng.so.1').espeak_Info
    except OSError: pytest.skip('libespeak-ng is not installed: apt-get install libespeak-ng1')
    about.restype = ctypes.c_char_p
    if not about(None).startswith(b'1.51'): pytest.skip(f'espeak-ng {about(None).decode()} is not 1.51')
    assert all(runpy.run_path(str(project/'tools/sample_speech.py'))['main']().values())

def test_truth_is_consistent(truth):
    t = len(truth['viewmats'])
    assert t==300 and truth['head_mask'].shape==truth['mouth_mask'].shape==(300,256,256)
    R = truth['viewmats'][:,:3,:3].astype(float)
    assert np.allclose(R@R.transpose(0,2,1), np.eye(3), atol=1e-5) and np.allclose(np.linalg.det(R), 1, atol=1e-5)
    assert truth['K'][0,0]==truth['focal']==500 and (truth['K'][:2,2]==128).all()
    for k in ('mouth_opening','mouth_opening_mm','blink'): assert len(truth[k])==t and truth[k].min()==0
    assert not (truth['mouth_mask']&~truth['head_mask']).any()
    assert .1<truth['head_mask'].mean()<.4
    assert np.corrcoef(truth['mouth_mask'].sum((1,2)), truth['mouth_opening'])[0,1]>.95
    assert not truth['mouth_mask'][truth['mouth_opening']==0].sum((1,2)).max()>12
    assert np.linalg.norm(np.diff(truth['viewmats'][:,:3,3], axis=0), axis=1).max()<.004, 'the head moves smoothly'

def test_face_is_found_where_it_is(seen, truth):
    landmarks,_,found = seen
    assert found.mean()>=.99
    error = np.linalg.norm(landmarks[:,:468,:2]-truth['landmarks'][::3].astype(float), axis=-1)
    assert error.mean()<1.5 and np.quantile(error, .95)<3
    canonical = np.stack([project_points(canonical_face()[0], v.astype(float), truth['K'])[0] for v in truth['viewmats'][::3]])
    assert np.linalg.norm(landmarks[:,:468,:2]-canonical, axis=-1).mean()<4

def test_mouth_and_blinks_are_measurable(frames, truth):
    "Frame by frame, without the video mode's smoothing"
    every = np.arange(0, 300, 6)
    landmarks,scores,_ = (np.concatenate(o) for o in zip(*[detect_landmarks([frames[i]]) for i in every]))
    height = np.linalg.norm(landmarks[:,13,:2]-landmarks[:,14,:2], axis=-1)
    blink = scores[:,[BLENDSHAPES.index('eyeBlinkLeft'), BLENDSHAPES.index('eyeBlinkRight')]].mean(1)
    assert np.corrcoef(height, truth['mouth_opening'][every])[0,1]>.9
    assert np.corrcoef(blink, truth['blink'][every])[0,1]>.85

def test_lips_close_on_p_b_m(truth):
    for phone,a,b in truth['phones']:
        if phone in ('p','b','m'): assert truth['mouth_opening'][max(int(a*25)-1, 0):int(b*25)+2].min()<.2, (phone, a)

def test_same_call_same_pictures(tmp_path):
    first,second = (make_sample_clip(tmp_path/k, n_frames=2) for k in 'ab')
    assert first.read_bytes()==second.read_bytes()
    assert not list(tmp_path.glob('**/*tmp*'))
    with pytest.raises(AssetError, match='nothing.mp4'): sample_file('nothing.mp4')
