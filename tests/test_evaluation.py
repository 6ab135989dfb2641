"Scores of heads and of anybody's frames, foreign speech, ablation rows side by side: through the commands, with what may be missing"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch

av = pytest.importorskip('av')
from syncgaussian.ablations import *
from syncgaussian.cli import main
from syncgaussian.clip import Clip, read_video, write_video
from syncgaussian.config import course_config, override
from syncgaussian.samples import driving_speech_path, sample_clip_path
from syncgaussian.scores import video
from syncgaussian.scores.syncnet import SyncNet, SyncNetError, load_syncnet, mfcc
from syncgaussian.scores.video import *
from syncgaussian.speech.sound import SpeechError
from syncgaussian.speech.sync_pair import AudioVisualEncoder, LipEncoder, save_sync_pair

TINY = dict(n_face=300, n_mouth=60, canonical_frames=4, motion_frames=8, finetune_frames=2, batch=2, densify_every=8, ave_seconds=1., lpips_patch=48)
SETTINGS = [x for k,v in TINY.items() for x in ('--set', f'{k}={v}')]
cfg = override(course_config(), **TINY)

@pytest.fixture(scope='module')
def job(tmp_path_factory):
    "A prepared clip of 96 px with 10 + 90 frames, a head trained for seconds, and an untrained sync pair"
    folder = tmp_path_factory.mktemp('job')
    assert main(['prepare', str(sample_clip_path()), '-o', str(folder/'clip'), '--size', '96', '--max-seconds', '4']) == 0
    assert main(['train', str(folder/'clip'), '-o', str(folder/'head'), '--device', 'cpu', *SETTINGS, '--set', 'n_face=1500', '--set', 'canonical_frames=80']) == 0
    torch.manual_seed(0)
    save_sync_pair(folder/'pair.safetensors', AudioVisualEncoder(), LipEncoder())
    return folder

def scores_of(path): return json.loads(Path(path).read_text())

# -- evaluate

def test_evaluate_command_has_every_score(job, tmp_path, capsys):
    out = tmp_path/'e.json'
    assert main(['evaluate', str(job/'head'), str(job/'clip'), '-o', str(out), '--compressed', '--sync-pair', str(job/'pair.safetensors'), '--device', 'cpu']) == 0
    s, text = scores_of(out), capsys.readouterr().out
    for k in ('psnr', 'ssim', 'lpips', 'psnr_head', 'psnr_mp4', 'lpips_head_mp4', 'lmd', 'bse_l', 'bse_u'): assert isinstance(s[k], float), k
    assert s['n_frames'] == 10 and {'sync_confidence', 'sync_distance', 'sync_offset', 'sync_confidence_recording', 'sync_c', 'sync_e'} <= set(s)
    assert s['sync_confidence'] is None and any('too few' in n for n in s['notes']) # ten frames hold no valley
    assert 'recording' in text and 'crf 23' in text and str(out) in text

def test_sync_of_longer_stretches(job):
    "Over all 100 frames there is a valley to look for; the recording measured against itself has the recording's sync"
    clip = Clip(job/'clip')
    idx = np.arange(clip.n_frames)
    s = score_video(clip.frames(), clip, idx, landmarks=False, pair=job/'pair.safetensors')
    assert s['sync_shifts'] == 15 and s['sync_confidence'] == s['sync_confidence_recording'] >= 0
    assert 0 <= s['sync_distance'] <= 2 and -15 <= s['sync_offset'] <= 15

def test_without_weights_a_sentence(job, monkeypatch):
    "No pair, no SyncNet: the scores are there, empty, with the reason; a pair that was asked for by name must exist"
    monkeypatch.setattr(video, 'static_file', lambda name: job/'nowhere'/name)
    clip = Clip(job/'clip')
    s = score_video(clip.frames([90,91]), clip, np.array([90,91]), landmarks=False)
    assert s['sync_confidence'] is None and s['sync_c'] is None
    assert any('no trained pair' in n for n in s['notes']) and any("SyncNet's weights" in n for n in s['notes'])
    with pytest.raises(SpeechError, match='no trained sync pair'): find_sync_pair(job/'other.safetensors')

def test_syncnet_of_a_user_is_used(job, tmp_path, monkeypatch):
    "A file in the published layout where the asset belongs gives Sync-C and Sync-E; another file is refused with a sentence"
    monkeypatch.setenv('SYNCGAUSSIAN_HOME', str(tmp_path))
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), tmp_path/'syncnet_v2.model')
    clip, idx = Clip(job/'clip'), np.arange(80, 100)
    net, note = find_syncnet()
    s = sync_of(clip.frames(idx), clip.landmarks[idx], clip, idx, net=net)
    assert s['sync_c'] >= 0 and s['sync_e'] > 0 and 'S3FD' in note
    watcher = LipWatcher(net=net, detect=False, chunk=7) # in pieces of 7 frames it sees the same windows
    for k in range(0, 20, 3): watcher.add(clip.frames(idx[k:k+3]), clip.landmarks[idx[k:k+3]])
    pieces = watcher.finish(clip.wave[80*640:])
    assert pieces['sync_e'] == pytest.approx(s['sync_e'], rel=.05) and pieces['n_frames'] == 20 and pieces['sync_confidence'] is None
    torch.save(dict(w=torch.zeros(2)), tmp_path/'syncnet_v2.model')
    with pytest.raises(SyncNetError, match='not SyncNet v2'): load_syncnet()
    (tmp_path/'syncnet_v2.model').write_bytes(b'cposix\ngetcwd\n(tR.')
    with pytest.raises(SyncNetError, match='plain tensors'): load_syncnet()

def test_mfcc_frames():
    for n, rows in ((100,1), (400,1), (401,2), (560,2), (561,3), (16000,99)): assert mfcc(np.ones(n)).shape == (rows,13)

def test_action_units_come_along(job, tmp_path, capsys):
    units = (1,2,4,5,6,7,9,10,12,14,15,17,20,23,25,26,45)
    for name, v in (('a', 1), ('b', 2)):
        (tmp_path/f'{name}.csv').write_text('\n'.join([', '.join(['frame', *(f'AU{u:02}_r' for u in units)]), *[', '.join([str(i), *[str(v)]*17]) for i in range(10)]]))
    command = ['evaluate', str(job/'head'), str(job/'clip'), '-o', str(tmp_path/'e.json'), '--no-landmarks', '--device', 'cpu', '--au-truth', str(tmp_path/'a.csv')]
    assert main(command) == 2 and 'belong together' in capsys.readouterr().err
    assert main([*command, '--au-render', str(tmp_path/'b.csv')]) == 0
    s = scores_of(tmp_path/'e.json')
    assert (s['aue_l'], s['aue_u']) == (9, 8) and 'lmd' not in s

def test_foreign_speech_command(job, tmp_path, capsys):
    assert main(['evaluate', str(job/'head'), str(job/'clip'), '-o', str(tmp_path/'s.json'), '--sync-pair', str(job/'pair.safetensors'), '--device', 'cpu',
                 '--keep', str(tmp_path/'videos'), '--speech', str(driving_speech_path())]) == 0
    row, = scores_of(tmp_path/'s.json')['speech']
    assert row['sync_confidence'] >= 0 and row['n_frames'] == 150 and 'psnr' not in row
    assert sum(1 for _ in read_video(tmp_path/'videos'/f'{driving_speech_path().stem}.mp4')[0]) == 150
    assert 'sync_confidence' in capsys.readouterr().out

# -- anybody's frames

def saved(folder, frames, name='{}.png'):
    from PIL import Image
    folder.mkdir()
    for k,f in enumerate(frames): Image.fromarray(f).save(folder/name.format(k))
    return folder

def test_frames_command(job, tmp_path, capsys):
    clip = Clip(job/'clip')
    film = write_video(tmp_path/'theirs.mp4', clip.frames(), crf=10)
    assert main(['evaluate', '--frames', str(film), str(job/'clip'), '--no-landmarks']) == 0
    s = scores_of(tmp_path/'theirs.mp4.evaluation.json')
    assert s['n_frames'] == 10 and 30 < s['psnr'] < 60 and 'Frame 0' in capsys.readouterr().out

def test_pictures_are_ideal_in_natural_order(job, tmp_path):
    "10.png comes after 9.png; the recording's own frames have no error at all"
    clip = Clip(job/'clip')
    folder = saved(tmp_path/'p', clip.frames(clip.split(.12)[1]))
    assert (tmp_path/'p/10.png').exists()
    s = evaluate_frames(folder, clip, test_share=.12, landmarks=False)
    assert (s['psnr'], s['ssim'], s['lpips'], s['n_frames']) == (float('inf'), 1, 0, 12)

def test_the_recording_itself_has_every_ideal_value(tmp_path_factory, capsys):
    "`evaluate --frames` of a clip's own frames: no error in picture, landmarks or blendshapes, and the sync of the recording"
    folder = tmp_path_factory.mktemp('own')
    assert main(['prepare', str(sample_clip_path()), '-o', str(folder/'clip'), '--size', '256', '--max-seconds', '6']) == 0
    clip = Clip(folder/'clip')
    assert main(['evaluate', '--frames', str(clip.dir/'frames.mp4'), str(clip.dir), '-o', str(folder/'e.json'), '--test-share', '0.3']) == 0
    s = scores_of(folder/'e.json')
    assert s['n_frames'] == s['lmd_frames'] == 45 and s['sync_shifts'] == 15
    assert [s[k] for k in ('psnr', 'ssim', 'lpips', 'lmd', 'bse_l', 'bse_u')] == [float('inf'), 1, 0, 0, 0, 0]
    assert s['mouth_correlation'] == pytest.approx(1, abs=1e-12)
    for k in SYNC_NAMES: assert s[k] == s[f'{k}_recording'] and s[k] is not None
    late = evaluate_frames(clip.dir/'frames.mp4', clip, offset=2, test_share=.3) # two frames late is no longer ideal
    assert late['lmd'] > .1 and late['mouth_correlation'] < .99 and late['sync_offset'] != s['sync_offset']

def test_rates_sizes_and_lengths_are_stated(job, tmp_path):
    clip = Clip(job/'clip')
    held = clip.split()[1]
    twice = write_video(tmp_path/'fifty.mp4', np.repeat(clip.frames(held), 2, 0), fps=50, crf=10)
    s = evaluate_frames(twice, clip, landmarks=False)
    assert s['psnr'] > 30 and any('50 a second' in n for n in s['notes'])
    large = np.repeat(np.repeat(clip.frames(held), 2, 1), 2, 2)
    s = evaluate_frames(saved(tmp_path/'large', large), clip, landmarks=False)
    assert s['psnr'] > 30 and any('192x192' in n for n in s['notes'])
    short = saved(tmp_path/'short', clip.frames(held[:7]))
    s = evaluate_frames(short, clip, landmarks=False)
    assert s['n_frames'] == 7 and any('7 of 10' in n for n in s['notes'])
    assert evaluate_frames(saved(tmp_path/'some', clip.frames(np.arange(60, 95))), clip, offset=60, landmarks=False)['psnr'] == float('inf')

@pytest.mark.parametrize('what, words', [('length', '--offset'), ('shape', 'cut the same square'), ('empty', 'no png or jpg'), ('missing', 'no such file'), ('text', 'cannot be read'), ('outside', 'none of the held-out')])
def test_frames_that_cannot_be_aligned_are_one_sentence(job, tmp_path, capsys, what, words):
    clip, more = Clip(job/'clip'), []
    path = tmp_path/'x'
    if what=='length': saved(path, clip.frames(np.arange(40)))
    if what=='shape': saved(path, clip.frames(np.arange(10))[:, :80])
    if what=='empty': path.mkdir()
    if what=='text': path = tmp_path/'x.mp4'; path.write_text('no video'*99)
    if what=='outside': saved(path, clip.frames(np.arange(10))); more = ['--offset', '3']
    assert main(['evaluate', '--frames', str(path), str(job/'clip'), '--no-landmarks', *more]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count('\n') <= 2

def test_a_head_and_frames_at_once_are_refused(job, capsys):
    assert main(['evaluate', 'HEAD', str(job/'clip'), '--frames', 'x']) == 2 and 'evaluate --frames' in capsys.readouterr().err

# -- ablations

def table_is_whole(folder, rows, results):
    saved, text = scores_of(folder/'ablations.json'), (folder/'ablations.md').read_text()
    assert [r['row'] for r in results] == rows and all(r['psnr'] > 5 for r in results)
    assert saved['changed']['n_face'] == 300 and saved['clip']['n_frames'] == 100 and all(r in text for r in rows)
    assert 'not comparable' in text and '35.21' in text and (folder/'ablations.png').stat().st_size > 3000

def test_two_processes_of_joblib(job, tmp_path):
    rows = ['w/o a_hu', 'SyncGaussian']
    table_is_whole(tmp_path, rows, run_ablations(job/'clip', tmp_path, cfg, rows, n_jobs=2, device='cpu', landmarks=False))

def test_a_local_dask_cluster(job, tmp_path):
    "Whatever `joblib.parallel_config` names takes the rows"
    distributed, joblib = pytest.importorskip('distributed'), pytest.importorskip('joblib')
    rows = ['w/o L_ah', 'SyncGaussian']
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, distributed.Client(cluster) as client:
        with joblib.parallel_config('dask'): results = run_ablations(job/'clip', tmp_path, cfg, rows, n_jobs=None, device='cpu', landmarks=False)
        workers = {w for _, w in client.run(os.getpid).items()}
    assert len(workers) == 2 and os.getpid() not in workers
    table_is_whole(tmp_path, rows, results)

def test_a_killed_run_loses_one_row(job, tmp_path):
    "SIGKILL when the first row is done; the command goes on with the second and leaves the first alone"
    command = [sys.executable, '-c', 'import sys; from syncgaussian.cli import main; sys.exit(main(sys.argv[1:]))']
    command += ['ablate', str(job/'clip'), '-o', str(tmp_path), '--rows', 'w/o a_ave', 'Mel only', '--no-landmarks', '--device', 'cpu', *SETTINGS]
    first, second = (tmp_path/f'{n}-0/scores.json' for n in ('w_o_a_ave', 'mel_only'))
    child, deadline = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), time.time()+180
    while not first.exists() and child.poll() is None and time.time() < deadline: time.sleep(.02)
    child.send_signal(signal.SIGKILL); child.wait()
    assert first.exists() and not second.exists()
    before = first.stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and second.exists() and first.stat().st_mtime_ns == before, done.stderr
    assert 'Mel only' in done.stdout and 'Table 4' in done.stdout and not (tmp_path/'ablations.tmp').exists()

def test_a_failing_row_keeps_the_others(job, tmp_path):
    results = run_ablations(job/'clip', tmp_path, cfg, ['HuBERT', 'Mel only'], device='cpu', landmarks=False)
    if 'error' not in results[0]: pytest.skip('the weights of HuBERT are on this machine')
    assert 'hf download' in results[0]['error'] and results[1]['psnr'] > 5
    text = (tmp_path/'ablations.md').read_text()
    assert 'Not finished' in text and 'HuBERT, seed 0' in text and not (tmp_path/'hubert-0/scores.json').exists()

def test_other_settings_in_the_same_folder_are_refused(job, tmp_path, monkeypatch):
    "Also: a later run of other rows keeps the earlier ones in the tables; landmark scores are added without training again"
    from syncgaussian.training import Trainer
    run_ablations(job/'clip', tmp_path, cfg, ['SyncGaussian'], device='cpu', landmarks=False)
    with pytest.raises(AblationError, match='rounds'): run_ablations(job/'clip', tmp_path, override(cfg, rounds=2), ['SyncGaussian'], device='cpu', landmarks=False)
    run_ablations(job/'clip', tmp_path, cfg, ['w/o L_ah'], device='cpu', landmarks=False)
    assert {r['row'] for r in scores_of(tmp_path/'ablations.json')['results']} == {'SyncGaussian', 'w/o L_ah'}
    monkeypatch.setattr(Trainer, 'run', lambda *a, **k: pytest.fail('trained again'))
    r, = run_ablations(job/'clip', tmp_path, cfg, ['SyncGaussian'], device='cpu')
    assert 'lmd' in r and scores_of(tmp_path/'syncgaussian-0/scores.json')['lmd'] == r['lmd']
    r, = run_ablations(job/'clip', tmp_path, cfg, ['SyncGaussian'], device='cpu', landmarks=False, pair=job/'pair.safetensors')
    assert r['sync_weights'] == find_sync_pair(job/'pair.safetensors')[0].sha256

def test_mean_and_spread():
    rows = [dict(row='SyncGaussian', seed=s, psnr=p, sync_offset=1, seconds=1.) for s,p in ((0,30.), (1,31.))]+[dict(row='w/o L_ah', seed=0, error='no memory')]
    text = ablation_table(rows)
    assert '30.500 ± 0.707' in text and '| w/o L_ah | 0 | - |' in text and '* w/o L_ah, seed 0: no memory' in text
    plot_ablations(rows)

def test_a_bare_gpu_machine_can_train_and_score(job, tmp_path):
    "Rows run and are scored where only torch, numpy, OpenCV, lpips and safetensors are installed"
    code = f"""import sys
class Absent:
    def find_spec(self, name, *a):
        if name.split('.')[0] in ('mediapipe','av','librosa','transformers','joblib','matplotlib','soundfile','skimage','plotly'): raise ImportError(name)
sys.meta_path.insert(0, Absent())
import importlib.util as u
find = u.find_spec; u.find_spec = lambda n, *a: None if n=='matplotlib' else find(n, *a)
from syncgaussian.ablations import run_ablations
from syncgaussian.config import course_config
r = run_ablations({str(job/'clip')!r}, {str(tmp_path)!r}, course_config(**{TINY!r}), ['w/o L_ah'], device='cpu', landmarks=False, pair={str(job/'pair.safetensors')!r})
print(r[0].get('error') or r[0]['psnr'] > 5)"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == 'True', done.stdout+done.stderr

def test_import_is_light():
    "Scoring code loads MediaPipe, transformers, matplotlib and joblib only where they are used"
    code = "import sys, syncgaussian.scores.video, syncgaussian.scores.syncnet, syncgaussian.ablations; print(*{'mediapipe','librosa','transformers','lpips','matplotlib','joblib','av','cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == ''
