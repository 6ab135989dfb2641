"Speech features: bad input, alignment, seams, memory, files, other encoders (all offline)"
import json, subprocess, sys
from types import SimpleNamespace

import numpy as np, pytest, torch
from syncgaussian.speech.sound import *
from syncgaussian.speech.text import *
from syncgaussian.speech.sync_pair import *

RNG = np.random.default_rng(0)

def noise(seconds, seed=0): return babble(seconds, np.random.default_rng(seed))

@pytest.fixture(scope='module')
def whisper(): return SpeechFeatures('openai/whisper-tiny.en')

@pytest.fixture(scope='module')
def wave_folder(tmp_path_factory):
    "Random small encoders of the HuBERT family, in transformers' folder layout"
    from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel
    root, small = tmp_path_factory.mktemp('models'), dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, conv_dim=(16,)*7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    for name, C, M in (('hubert', HubertConfig, HubertModel), ('wav2vec2', Wav2Vec2Config, Wav2Vec2Model), ('wavlm', WavLMConfig, WavLMModel)):
        torch.manual_seed(0)
        M(C(**small)).save_pretrained(root/name)
    return root

def test_lazy_imports():
    heavy = ('transformers', 'librosa', 'mediapipe', 'cv2', 'av', 'gsplat', 'matplotlib')
    code = f'import sys, syncgaussian.speech, syncgaussian.encoder; print([m for m in {heavy} if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

@pytest.mark.parametrize('wave, says', [([], 'at least one video frame'), (np.zeros(160), '10 ms'), (np.full(16000, np.nan), 'NaN'),
                                        (np.r_[np.zeros(999), np.inf, np.zeros(9999)], '1 of 10999'), (np.zeros((16000, 2)), 'one channel')])
@pytest.mark.parametrize('extract', ['mel', 'ave', 'activity'])
def test_bad_sound(wave, says, extract):
    f = dict(mel=lambda w: SpeechFeatures('mel')(w), ave=lambda w: ave_features(AudioVisualEncoder(), w), activity=speech_activity)[extract]
    with pytest.raises(SpeechError, match=says): f(wave)

@pytest.mark.parametrize('samples', [640, 1279, 6400, 16000, 70000])
def test_lengths(whisper, samples):
    wave, n = noise(5)[:samples], n_frames(samples)
    assert whisper(wave).shape == (n, 2, 384) and SpeechFeatures('mel')(wave).shape == (n, 4, 80)
    assert ave_features(AudioVisualEncoder(), wave).shape == (n, 1, 512) and speech_activity(wave).shape == (n,)
    assert SpeechFeatures('mel')(wave, n + 3).shape == (n + 3, 4, 80) and SpeechFeatures('mel')(wave, 1).shape == (1, 4, 80)

@pytest.mark.parametrize('name', ['mel', 'openai/whisper-tiny.en'])
@pytest.mark.parametrize('gain, offset', [(.01, 0.), (6., 0.), (1., .2), (.1, -.05)])
def test_loudness_and_offset(name, gain, offset, whisper):
    f, wave = whisper if 'whisper' in name else SpeechFeatures(name), noise(3)
    x, y = f(wave), f(gain*wave + np.float32(offset))
    assert np.linalg.norm(x - y) < .01*np.linalg.norm(x - x.mean(0))

def click_frame(extract, seconds, length=5):
    wave = np.zeros(length*16000, np.float32)
    wave[round(seconds*16000):][:8] = .9
    x = extract(wave).reshape(length*25, -1)
    return np.linalg.norm(x - np.median(x, axis=0), axis=1).argmax()

@pytest.mark.parametrize('seconds', [1.48, 2.])
def test_click(whisper, wave_folder, seconds):
    torch.manual_seed(0)
    for f in (whisper, SpeechFeatures('mel'), *(SpeechFeatures(wave_folder/n) for n in ('hubert', 'wav2vec2', 'wavlm'))):
        assert click_frame(f, seconds) == round(25*seconds), f.name

@pytest.mark.parametrize('seconds', [.6, 1.48, 2., 3.96])
def test_click_ave(seconds):
    "The spectrogram window of the click's frame is the one with the click in its middle"
    wave = np.zeros(5*16000, np.float32)
    wave[round(seconds*16000)] = 1
    mel, rows = ave_mel(wave), ave_rows(np.arange(125), 125, 401)
    loud = mel.amax(0).numpy()
    centre = [np.average(np.arange(16), weights=loud[r:r+16] + 4 + 1e-9) if loud[r:r+16].max() > -4 else 99 for r in rows]
    assert abs(np.argmin(np.abs(np.array(centre) - 7.5)) - round(25*seconds)) <= 1

@pytest.mark.parametrize('name', ['hubert', 'wav2vec2', 'wavlm'])
def test_cut_against_uncut(wave_folder, name):
    wave = noise(12)
    short, long = (SpeechFeatures(wave_folder/name, seconds=s)(wave).reshape(300, -1) for s in (4, 40))
    inner = slice(5, -5)
    assert np.linalg.norm((short - long)[inner]) < .25*np.linalg.norm((long - long.mean(0))[inner])

def test_seams_whisper(whisper):
    x = whisper(noise(30)).reshape(1500, -1)
    jump = np.linalg.norm(np.diff(x, axis=0), axis=1)
    seams = np.arange(100, 1500, 100) - 1
    assert np.mean([jump[s-2:s+3].mean() for s in seams]) < 1.25*jump.mean()

def test_mel_has_no_seams():
    wave = noise(9)
    a = SpeechFeatures('mel')(wave)
    whole = whisper_mel(torch.from_numpy(np.pad(normalise_speech(wave), 200))[None], mel_filters(80, 400, 0, 8000))[0].T
    assert np.abs(a.reshape(-1, 80) - whole.numpy()[:900]).max() < 1e-3

def test_blocks_do_not_change_ave():
    torch.manual_seed(0)
    model, wave = AudioVisualEncoder(), noise(5)
    assert np.allclose(ave_features(model, wave, batch=7), ave_features(model, wave, batch=1000), atol=1e-4)

def test_ten_minutes_in_bounded_windows():
    seen = []
    class Count(torch.nn.Module):
        dim, rate, seconds = 1, 50, 4.
        def forward(self, x): seen.append(x.shape); return torch.ones(len(x), 200, 1)
    x = blend_windows(Count(), np.zeros(600*16000, np.float32))
    assert max(a*b for a,b in seen) <= 4*(4*16000 + 400) and np.allclose(x, 1, atol=1e-5)

def test_log_mel_is_whispers():
    from transformers import WhisperFeatureExtractor
    wave = noise(4)
    theirs = WhisperFeatureExtractor(feature_size=80)(wave, sampling_rate=16000, padding='do_not_pad', return_tensors='pt')['input_features'][0]
    ours = whisper_mel(torch.from_numpy(np.pad(wave, 200, mode='reflect'))[None], mel_filters(80, 400, 0, 8000), top=float(theirs.max()*4 - 4))[0]
    assert (theirs - ours[:,:theirs.shape[1]]).abs().max() < 1e-3

def test_published_windows():
    "Row of each frame as in the published windowing: windows int(3.2 t), first and last repeated twice"
    wave, rows = noise(8), 8*80 + 1
    published = [int(80*t/25) for t in range(int((rows - 16)/80*25) + 2)]
    published = [r for r in published if r + 16 <= rows]
    published = [published[0]]*2 + published + [published[-1]]*2
    assert np.abs(ave_rows(np.arange(200), 200, rows) - np.array((published + published[-1:]*5)[:200])).max() <= 3
    assert (ave_rows(np.arange(190), 200, rows) == published[:190]).all()

def test_published_state(tmp_path):
    torch.manual_seed(1)
    model = AudioVisualEncoder().eval()
    bare = {k.removeprefix('audio_encoder.'):v for k,v in model.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == 2_812_672 and {'0.conv_block.0.weight', '12.conv_block.1.running_var'} <= set(bare)
    torch.save(bare, tmp_path/'audio_visual_encoder.pth')
    mel = torch.randn(2, 1, 80, 16)
    for again in (load_audio_visual_encoder(tmp_path/'audio_visual_encoder.pth'), AudioVisualEncoder().load_published(model.state_dict())):
        assert torch.allclose(again(mel), model(mel))
    with pytest.raises(SpeechError, match='There are no audio-visual weights'): load_audio_visual_encoder(tmp_path/'none.pth')

@pytest.mark.parametrize('shape', [(100, 2, 1024), (104, 16, 29), (95, 512), (100, 1, 512)])
def test_ready_files(tmp_path, shape):
    x = RNG.standard_normal(shape).astype(np.float32)
    np.save(tmp_path/'aud.npy', x)
    y = SpeechFeatures(tmp_path/'aud.npy')(noise(4))
    assert y.shape == (100, *(shape[1:] if len(shape) == 3 else (1, shape[1]))) and np.allclose(y[50], x[50])

def test_ready_files_refused(tmp_path):
    for name, x, says in (('short', np.zeros((50, 2, 8)), 'for 50 frames, the recording has 100'), ('flat', np.zeros(100), 'shape'), ('nan', np.full((100, 2, 8), np.nan), 'NaN'),
                          ('pickle', np.array([{}], dtype=object), 'not a plain')):
        np.save(tmp_path/f'{name}.npy', x, allow_pickle=True)
        with pytest.raises(SpeechError, match=says): SpeechFeatures(tmp_path/f'{name}.npy')(noise(4))
    with pytest.raises(SpeechError, match='no feature file'): SpeechFeatures(tmp_path/'none.npy')(noise(4))

def test_unknown_and_missing(tmp_path, monkeypatch):
    with pytest.raises(SpeechError, match="No speech model is called 'deepspeech9'"): SpeechFeatures('deepspeech9')
    code = ("from syncgaussian.speech import SpeechError, SpeechFeatures\ntry: SpeechFeatures('facebook/hubert-large-ls960-ft')\nexcept SpeechError as e: print(e)")
    import os
    env = dict(os.environ, HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path))
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env).stdout
    assert 'hf download facebook/hubert-large-ls960-ft' in said and "'openai/whisper-tiny.en'" in said

def test_text_model_is_refused(tmp_path):
    from transformers import BertConfig, BertModel
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)).save_pretrained(tmp_path/'bert')
    with pytest.raises(SpeechError, match='only Whisper and encoders'): SpeechFeatures(tmp_path/'bert')

def test_other_whisper(tmp_path):
    from transformers import WhisperConfig, WhisperModel as HF
    HF(WhisperConfig(d_model=16, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=128, vocab_size=60,
                     pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)).save_pretrained(tmp_path/'whisper-small')
    assert SpeechFeatures(tmp_path/'whisper-small')(noise(2)).shape == (50, 2, 16)

def test_activity():
    wave = np.concatenate([noise(2), np.zeros(16000, np.float32), noise(2, 1)])
    a = speech_activity(wave)
    assert a[51:74].max() < .2 and a.mean() > .4 and 0 <= a.min() <= a.max() <= 1
    assert speech_activity(np.zeros(16000, np.float32)).max() == 0
    assert np.allclose(speech_activity(.01*wave), a, atol=.02)

def test_sync_scores():
    g = torch.Generator().manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(200, 16, generator=g), dim=-1)
    for shift in (-9, 0, 4):
        s = sync_scores(v.roll(shift, 0), v)
        assert s.offset == shift and s.confidence > .5 and len(s.curve) == 31
    with pytest.raises(SpeechError, match='equally long'): sync_scores(v, v[:-1])
    with pytest.raises(SpeechError, match='at least 35'): sync_scores(v[:20], v[:20])

def toy_clip(n=80, seed=0):
    "A face whose mouth brightness and speech loudness go together"
    g = np.random.default_rng(seed)
    level = np.convolve(g.random(n + 4), np.ones(5)/5, 'valid')
    wave = np.repeat(level, 640).astype(np.float32)*g.standard_normal(n*640).astype(np.float32)*.2
    crops = (level[:,None,None]*255*np.ones((1, 56, 88))).astype(np.uint8)
    return SyncClip(f'toy{seed}', wave, crops, np.repeat(level[:,None], 5, 1).astype(np.float32))

def test_training_runs_repeats_and_goes_on(tmp_path):
    a, b = (train_audio_visual_encoder([toy_clip()], steps=2, batch=1, length=24, seed=3) for _ in range(2))
    assert len(a[2]) == 2 and all(torch.equal(p, q) for p,q in zip(a[0].state_dict().values(), b[0].state_dict().values()))
    x = ave_features(a[0], toy_clip().wave, normalise=False)
    assert abs(np.sqrt(np.square(x).mean()) - 1) < .01
    save_sync_pair(tmp_path/'pair.safetensors', *a[:2], card=dict(by='test'))
    model, lips = load_sync_pair(tmp_path/'pair.safetensors')
    assert (tmp_path/"pair.safetensors").stat().st_size < 6e6
    assert np.allclose(ave_features(model, toy_clip().wave, normalise=False), x, atol=.05)
    assert torch.allclose(lip_features(lips, toy_clip().crops), lip_features(a[1], toy_clip().crops), atol=.02)
    more = fit_to_person(toy_clip(), seconds=.1, pair=(model, lips))
    assert len(more[2]) >= 1 and np.isfinite(ave_features(more[0], toy_clip().wave)).all()

def test_too_short_to_train():
    with pytest.raises(SpeechError, match='less than a second'): train_audio_visual_encoder([toy_clip(20)], steps=1)

def test_crops_follow_the_head():
    "A picture that moves as a whole gives the same crop"
    yy, xx = np.mgrid[:128, :128]
    image = (127 + 60*np.sin(xx/5) + 60*np.cos(yy/7)).astype(np.uint8)
    marks = np.full((1, 478, 3), 64, np.float32)
    for i,p in {33:(44, 50), 263:(84, 50), 0:(64, 78), 17:(64, 86)}.items(): marks[0,i,:2] = p
    moved = np.roll(image, (6, -8), (0, 1))
    there = marks + np.array([-8, 6, 0], np.float32)
    a, b = mouth_crops([image], marks)[0], mouth_crops([moved], there)[0]
    assert a.shape == (56, 88) and np.abs(a.astype(int) - b).max() <= 1
