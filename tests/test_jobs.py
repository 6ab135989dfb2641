"The whole job, small: train, resume after a kill, synthesize, evaluate, and what goes wrong"
import contextlib, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip('av')
from syncgaussian.cli import main
from syncgaussian.clip import Clip
from syncgaussian.config import course_config, override
from syncgaussian.clip.media import read_frames
from syncgaussian.samples import driving_speech_path, sample_clip_path
from syncgaussian.training import load_head

TINY = dict(n_face=600, n_mouth=100, canonical_frames=8, motion_frames=24, finetune_frames=4, batch=2, densify_every=8, ave_seconds=2., lpips_patch=48)
SETTINGS = [x for k,v in TINY.items() for x in ('--set', f'{k}={v}')]

@pytest.fixture(scope='module')
def job(tmp_path_factory):
    "A prepared clip of four seconds at 128 px and a head trained on it for seconds, made by the commands"
    folder = tmp_path_factory.mktemp('job')
    assert main(['prepare', str(sample_clip_path()), '-o', str(folder/'clip'), '--size', '128', '--max-seconds', '4']) == 0
    assert main(['train', str(folder/'clip'), '-o', str(folder/'head'), '--device', 'cpu', *SETTINGS]) == 0
    return folder

def wav(path, samples, rate=16000):
    import soundfile
    soundfile.write(path, samples, rate)
    return path

def streams(path):
    with av.open(str(path)) as c: return {s.type: s for s in c.streams}, c.duration/1e6, dict(c.metadata)

def test_commands_write_what_they_say(job):
    info = json.loads((job/'head/head.json').read_text())
    assert info['config']['n_face'] == 600 and info['n_frames'] == Clip(job/'clip').n_frames
    assert main(['synthesize', str(job/'head'), str(driving_speech_path()), '-o', str(job/'out.mp4'), '--device', 'cpu']) == 0
    with av.open(str(driving_speech_path())) as c: wanted = c.duration/1e6
    kinds, duration, metadata = streams(job/'out.mp4')
    assert set(kinds) == {'video', 'audio'} and abs(duration-wanted) < 0.15
    assert 'synthetic' in ' '.join(metadata.values()).lower()
    assert main(['evaluate', str(job/'head'), str(job/'clip')]) == 0
    scores = json.loads((job/'head/evaluation.json').read_text())
    assert scores['psnr'] > scores['psnr_head'] > 15 and 0 < scores['ssim'] <= 1 and scores['n_frames'] == 10

def test_longer_speech_than_video_runs_poses_there_and_back(job, tmp_path):
    rng = np.random.default_rng(0)
    speech = wav(tmp_path/'long.wav', 0.1*rng.standard_normal((48000*9, 2)).astype(np.float32), 48000)
    assert main(['synthesize', str(job/'head'), str(speech), '-o', str(tmp_path/'long.mp4'), '--device', 'cpu']) == 0
    assert len(read_frames(tmp_path/'long.mp4', np.arange(225))) == 225

def test_same_folder_other_settings_is_refused(job, capsys):
    assert main(['train', str(job/'clip'), '-o', str(job/'head'), '--set', 'rounds=2', *SETTINGS]) == 2
    assert 'rounds' in capsys.readouterr().err

def test_second_run_loads_the_finished_head(job):
    before = (job/'head/head.safetensors').stat().st_mtime_ns
    assert main(['train', str(job/'clip'), '-o', str(job/'head'), '--device', 'cpu', *SETTINGS]) == 0
    assert (job/'head/head.safetensors').stat().st_mtime_ns == before

def test_kill_and_resume_gives_the_same_head(job, tmp_path):
    "SIGKILL in the middle; the command goes on from the checkpoint and ends with the same numbers"
    from safetensors.torch import load_file
    long = [x if x!='motion_frames=24' else 'motion_frames=160' for x in SETTINGS]
    code = ("import syncgaussian.training as t; run=t.Trainer.run\n"
            "t.Trainer.run=lambda self,*a,**k: run(self,*a,**(k|dict(save_every=0.)))\n"
            "import sys; from syncgaussian.cli import main; sys.exit(main(sys.argv[1:]))")
    command = lambda out: [sys.executable, '-c', code, 'train', str(job/'clip'), '-o', str(out), '--device', 'cpu', *long]
    child = subprocess.Popen(command(tmp_path/'killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint, deadline = tmp_path/'killed/checkpoint.safetensors', time.time()+240
    while not checkpoint.exists() and child.poll() is None and time.time() < deadline: time.sleep(0.05)
    time.sleep(1); child.send_signal(signal.SIGKILL); child.wait()
    assert checkpoint.exists() and not (tmp_path/'killed/head.safetensors').exists()
    subprocess.run(command(tmp_path/'killed'), check=True, stdout=subprocess.DEVNULL)
    subprocess.run(command(tmp_path/'straight'), check=True, stdout=subprocess.DEVNULL)
    a, b = (load_file(tmp_path/f'{n}/head.safetensors') for n in ('killed', 'straight'))
    assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)

def test_divergence_stops_with_a_sentence(job, tmp_path):
    import torch
    from syncgaussian.training import TrainingData, TrainingError, Trainer, init_head
    clip, cfg = Clip(job/'clip'), override(course_config(), **TINY)
    data = TrainingData(clip, cfg, clip.split()[0])
    trainer = Trainer(init_head(data, cfg), data, cfg)
    with torch.no_grad(): trainer.head.face.sh0.fill_(float('nan'))
    with pytest.raises(TrainingError, match='step .* not a number'): trainer.run(until=20, progress=False)

def test_head_of_one_colour_a_gaussian(job, tmp_path):
    "Without spherical harmonics (`sh_degree=0`) a head densifies, is saved and speaks"
    settings = [*SETTINGS, '--set', 'sh_degree=0', '--set', 'grow_gradient=1e-6']
    assert main(['train', str(job/'clip'), '-o', str(tmp_path/'head'), '--device', 'cpu', *settings]) == 0
    head = load_head(tmp_path/'head')
    assert head.face.shN.shape == (len(head.face.means), 0, 3) and len(head.face.means) != TINY['n_face']
    assert main(['synthesize', str(tmp_path/'head'), str(driving_speech_path()), '-o', str(tmp_path/'v.mp4'), '--device', 'cpu']) == 0
    assert (tmp_path/'v.mp4').stat().st_size > 1000

@pytest.mark.parametrize('speech, words', [('silent', 'silent'), ('empty', 'empty.wav'), ('text', 'text.wav'), ('missing', 'missing.wav')])
def test_bad_speech_is_one_sentence(job, tmp_path, capsys, speech, words):
    path = tmp_path/f'{speech}.wav'
    if speech=='silent': wav(path, np.zeros(32000, np.float32))
    if speech=='empty': path.write_bytes(b'')
    if speech=='text': path.write_text('not a sound file at all\n'*50)
    with pytest.warns(UserWarning, match='silent') if speech=='silent' else contextlib.nullcontext():
        code = main(['synthesize', str(job/'head'), str(path), '-o', str(tmp_path/'out.mp4'), '--device', 'cpu'])
    message = capsys.readouterr().err
    if speech=='silent': assert code == 0 and (tmp_path/'out.mp4').exists()
    else: assert code == 2 and not (tmp_path/'out.mp4').exists() and words in message and message.count('\n') <= 2

def test_head_of_another_ear_is_refused(job, tmp_path, capsys):
    "A head whose stored extractor gives other features than it was trained with"
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    shutil.copytree(job/'head', tmp_path/'head')
    path = tmp_path/'head/head.safetensors'
    with safe_open(path, 'pt') as f: info = json.loads(f.metadata()['info'])
    info['config']['audio_to_text'] = 'mel'
    save_file(load_file(path), path, metadata=dict(info=json.dumps(info)))
    assert main(['synthesize', str(tmp_path/'head'), str(driving_speech_path()), '-o', str(tmp_path/'out.mp4'), '--device', 'cpu']) == 2
    assert 'extractor' in capsys.readouterr().err

@pytest.mark.parametrize('what', ['folder', 'version', 'truncated'])
def test_bad_folders_are_one_sentence(job, tmp_path, capsys, what):
    clip, head = tmp_path/'clip', tmp_path/'head'
    if what=='version':
        shutil.copytree(job/'clip', clip)
        m = json.loads((clip/'manifest.json').read_text()); m['version'] = 99
        (clip/'manifest.json').write_text(json.dumps(m))
    if what=='truncated':
        shutil.copytree(job/'head', head)
        (head/'head.safetensors').write_bytes((head/'head.safetensors').read_bytes()[:1000])
    code = main(['evaluate', str(head), str(job/'clip')]) if what=='truncated' else main(['train', str(clip), '-o', str(head), *SETTINGS])
    message = capsys.readouterr().err
    assert code == 2 and str(tmp_path) in message and message.count('\n') <= 2

def test_demo_reports_and_pictures(tmp_path, monkeypatch):
    "`demo` with a schedule of seconds: every file it promises, and the seconds of each step"
    from syncgaussian import demo
    report = demo(tmp_path, override(course_config(), **TINY), progress=False)
    for name in ('talking_head.mp4', 'comparison.png', 'metrics.json'): assert (tmp_path/name).stat().st_size > 1000
    saved = json.loads((tmp_path/'metrics.json').read_text())
    assert {'psnr', 'psnr_head', 'ssim', 'lpips', 'lmd', 'seconds', 'versions'} <= set(saved) and saved['psnr'] == report['psnr']
    assert set(saved['seconds']) == {'prepare', 'train', 'synthesize', 'evaluate'}
