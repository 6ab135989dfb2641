"The boards' plain functions and their widgets, away from any browser"
import csv, json, os, subprocess, sys, threading, time
from pathlib import Path

import numpy as np
import pytest
import torch

from syncgaussian.config import ABLATIONS, ablate, course_config
from syncgaussian.files import static_file
from syncgaussian.show.widgets import CurvePlot, widget_script
from syncgaussian.speech.sync_pair import sync_scores
from syncgaussian.boards.ablations import IDEAS, AblationBoard, board_config, run_name
from syncgaussian.boards.lip_sync import LipSyncExplorer, energy_opening_correlation, speech_energy
from syncgaussian.boards.pose import PoseExplorer
from syncgaussian.boards.talk import SpeakNow
from syncgaussian.boards.user_study import QUALITIES, append_ratings, mean_opinion_scores, read_ratings, study_order

ROOT = Path(__file__).resolve().parents[1]

SCRIPTS = ['curve_plot.js', 'video_player.js', 'sound_input.js', 'frame_player.js', 'splat_viewer.js']

@pytest.mark.parametrize('name', SCRIPTS+['common.js'])
def test_scripts_are_small_plain_and_talk_to_nobody(name):
    text = static_file(name).read_text()
    assert len(text.encode()) < 30_000
    assert not any(o in text for o in ('http://', 'https://', 'import ', 'import(', 'fetch(', 'XMLHttpRequest', 'WebSocket', 'eval('))

@pytest.mark.parametrize('name', SCRIPTS)
def test_what_widgets_share_is_written_once(name):
    own = static_file(name).read_text()
    assert 'function h(' not in own and 'const bytes' not in own
    whole = widget_script(name)
    assert whole.count('function ties(') == whole.count('export default') == 1

def test_energy_of_a_known_tone():
    wave = np.r_[np.zeros(16000), .5*np.sin(np.arange(16000)/16000*2*np.pi*200)]
    energy = speech_energy(wave, 50)
    assert (energy[:25]==-50).all() and np.allclose(energy[25:], 10*np.log10(.125), atol=.05)

@pytest.mark.parametrize('n', [1, 3, 80])
def test_energy_of_sound_that_is_too_short_or_too_long(n):
    assert speech_energy(np.ones(20_000), n).shape==(n,)
    assert np.isfinite(speech_energy(np.zeros(0), n)).all()

@pytest.mark.parametrize('shift', [-7, -1, 0, 4, 12])
def test_correlation_finds_the_shift_and_agrees_with_the_sign_of_the_player(shift):
    rng = np.random.default_rng(1)
    opening = np.convolve(rng.random(300), np.ones(4)/4, 'same')
    energy = np.roll(opening, shift)   # the sound of frame i is heard at i+shift
    curve = energy_opening_correlation(energy, opening)
    assert curve.argmax()-15==shift and curve.max() > .99

def test_correlation_has_the_sign_of_sync_scores():
    x = torch.randn(100, 8)
    lips = torch.nn.functional.normalize(x, dim=-1)
    assert sync_scores(lips.roll(4, 0), lips).offset==4
    assert energy_opening_correlation(np.roll(x[:,0].numpy(), 4), x[:,0].numpy()).argmax()-15==4

def test_correlation_of_gaps_and_of_nothing():
    opening = np.random.default_rng(0).random(100)
    energy = opening.copy()
    opening[10:40] = np.nan
    assert energy_opening_correlation(energy, opening)[15] > .99
    assert (energy_opening_correlation(np.zeros(100), opening)==0).all()

def test_other_measures_can_be_shown():
    frames, wave = np.zeros((50,16,16,3), np.uint8), np.zeros(32000)
    box = LipSyncExplorer(frames, (wave,16000), dict(a=np.arange(50.)), measures=dict(mine=np.arange(11.)), measure='mine')
    assert (box.slider.min, box.slider.max)==(-5, 5) and box.shift(2)==dict(mine=7.)

def test_curves_may_be_empty_flat_or_torn():
    plot = CurvePlot({})
    for curves in (dict(a=[]), dict(a=np.ones(5)), dict(a=[np.nan, 1, np.nan], b=[np.nan]*3)): plot.show(curves)
    json.dumps(dict(plot.look, labels=plot.labels))

def test_the_picture_is_the_same_each_time_in_tests(monkeypatch):
    monkeypatch.setenv('IN_TEST', '1')
    make = lambda: PoseExplorer(np.zeros((4,64,64,3), np.uint8), *[np.tile(np.diag([1.,-1,-1,1])+np.eye(4,4,3)*0+np.array([[0,0,0,0],[0,0,0,0],[0,0,0,.6],[0,0,0,0]]), (4,1,1))]*2,
                                   np.array([[125.,0,32],[0,125,32],[0,0,1]]), np.random.default_rng(0).normal(size=(468,3))*.05)._repr_mimebundle_()
    one, two = make(), make()
    assert one==two and 'application/vnd.jupyter.widget-view+json' not in one and 'image/png' in one

# ---------------------------------------------------------------- a voice

@pytest.fixture
def speaker(tmp_path):
    def tell_all(head, speech, out, tell):
        tell(.5)
        out.write_bytes(Path(speech).read_bytes())
        return out
    box = SpeakNow(None, tmp_path/'spoken', say=tell_all)
    box.film.show = lambda path: setattr(box.film, 'path', path)
    return box

def take(box, name, data, rate=0):
    box.sound.hear(dict(kind='begin', name=name, rate=rate))
    for k in range(0, len(data), 1000): box.sound.hear(dict(kind='part'), [memoryview(data[k:k+1000])])
    box.sound.hear(dict(kind='end'))
    box.worker.join()

@pytest.mark.parametrize('name', ['a.wav', '../../evil.wav', '/etc/evil.wav', '..\\evil.wav', 'with space ä.mp3'])
def test_a_file_arrives_whole_and_stays_in_its_folder(speaker, name):
    data = os.urandom(123_456)
    take(speaker, name, data)
    assert speaker.film.path.read_bytes()==data
    assert [p.read_bytes() for p in Path(speaker.sound.folder.name).iterdir()]==[data]

def test_a_dropped_take_and_parts_from_nowhere_are_ignored(speaker):
    for message in (dict(kind='part'), dict(kind='end')): speaker.sound.hear(message, [b'x'])
    speaker.sound.hear(dict(kind='begin', name='a.wav', rate=8000)); speaker.sound.hear(dict(kind='part'), [b'xxxx']); speaker.sound.hear(dict(kind='drop'))
    speaker.sound.hear(dict(kind='end'))
    assert speaker.worker is None

def test_samples_become_a_wav_of_their_rate(speaker):
    import wave
    take(speaker, 'microphone.wav', (np.arange(4410)*3).astype('<i2').tobytes()+b'!', 44100)
    with wave.open(str(speaker.film.path)) as f: assert (f.getframerate(), f.getnframes())==(44100, 4410)

def test_a_failure_is_a_sentence_and_the_next_take_works(speaker):
    good, speaker.say = speaker.say, lambda *_: 1/0
    take(speaker, 'a.wav', b'1')
    assert 'could not be said: division by zero' in speaker.sound.status and not speaker.sound.busy
    speaker.say = good
    take(speaker, 'a.wav', b'1')
    assert 'press play' in speaker.sound.status

def test_a_second_voice_waits(speaker):
    go = threading.Event()
    speaker.say = lambda head, speech, out, tell: go.wait(10) and out.write_bytes(b'') or out
    speaker.answer('a.wav'); speaker.answer('b.wav')
    assert 'still busy' in speaker.sound.status and speaker.takes==1
    go.set(); speaker.worker.join()

# ---------------------------------------------------------------- what a reader without a kernel sees

def test_every_widget_of_the_course_has_its_still_in_the_notebook():
    "The notebooks hold a PNG where a widget stands, and no widget that nobody could open"
    names, seen = ('SplatViewer','FramePlayer','CurvePlot','VideoPlayer','SpeakNow','LipSyncExplorer','PoseExplorer','PlaneExplorer','AblationBoard','UserStudy','StillBox'), []
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        for output in (o for c in json.loads(path.read_text())['cells'] for o in c.get('outputs', [])):
            data = output.get('data', {})
            assert 'application/vnd.jupyter.widget-view+json' not in data, path.name
            name = ''.join(data.get('text/plain', '')).rstrip('()')
            if name in names: seen.append(name); assert len(data['image/png']) > 1000, (path.name, name)
    assert set(seen)==set(names), set(names)-set(seen)

# ---------------------------------------------------------------- the study

FILMS = {c: {m: f'{c}-{m}.mp4' for m in ('ours','theirs','truth')} for c in 'abcdefgh'}

def test_the_order_is_drawn_and_fair():
    assert study_order(FILMS, 3)==study_order(FILMS, 3)!=study_order(FILMS, 4)
    first = [o[0] for seed in range(100) for _,o in study_order(FILMS, seed)]
    assert all(220 < first.count(m) < 320 for m in ('ours','theirs','truth'))

def row(rater='me', clip='a', method='ours', mark=3): return dict(rater=rater, clip=clip, method=method, place='A', **{q: mark for q in QUALITIES})

def test_a_writer_that_is_killed_loses_nothing(tmp_path):
    path = tmp_path/'marks.csv'
    code = f"""import os
from syncgaussian.boards.user_study import append_ratings, QUALITIES
for k in range(1000):
    append_ratings({str(path)!r}, [dict(rater='me', clip=str(k), method='m', place='A', **{{q: 5 for q in QUALITIES}})])
    if k==30: os._exit(9)"""
    subprocess.run([sys.executable, '-c', code], timeout=120, cwd=ROOT)
    assert [r['clip'] for r in read_ratings(path)]==[str(k) for k in range(31)]

@pytest.mark.parametrize('cut', range(1, 40, 3))
def test_a_torn_line_costs_only_itself(tmp_path, cut):
    path = tmp_path/'marks.csv'
    append_ratings(path, [row(clip='a, "b"'), row(clip='c')])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    append_ratings(path, [row(clip='d')])
    clips = [r['clip'] for r in read_ratings(path)]
    assert clips[-1]=='d' and clips[:-1] in ([['a, "b"','c'], ['a, "b"']] if cut < 20 else [['a, "b"'], []])

def test_scores_of_known_marks():
    rows = [row(rater=r, clip=c, method=m, mark=k) for (r,c,m,k) in [('x','a','ours',5), ('x','b','ours',3), ('y','a','ours',2), ('y','b','ours',2), ('x','a','truth',4)]]
    mean, half, n = mean_opinion_scores(rows)['ours']['lip sync']
    assert (mean, n)==(3., 2) and abs(half-12.706*2**.5/2**.5) < .01   # raters' means 4 and 2
    assert np.isnan(mean_opinion_scores(rows)['truth']['lip sync'][1])
    assert mean_opinion_scores([])=={}

# ---------------------------------------------------------------- the board

def test_every_row_of_the_table_has_a_box():
    assert set(IDEAS.values()) | {'SyncGaussian'} == set(ABLATIONS)
    cfg = course_config()
    for idea,name in IDEAS.items(): assert board_config(cfg, [idea])==ablate(cfg, name)
    assert board_config(cfg, [])==cfg and run_name([])=='SyncGaussian'

def test_the_board_trains_in_a_thread_and_stops():
    picture, started = torch.zeros(1,8,8,3), threading.Event()
    def forever(clip, cfg, every):
        k = 0
        while True:
            k += every; time.sleep(.01)
            yield dict(step=k, total=10**6, stage='motion', loss=1., psnr=20., mouths=picture, recorded=picture)
    board = AblationBoard(None, learn=forever)
    board.train.click()
    while len(board.curves['SyncGaussian'])<2: time.sleep(.05)
    assert board.train.disabled and not board.stop.disabled
    board.clear.click(); assert board.runs   # nothing is forgotten while it runs
    board.stop.click(); board.worker.join(20)
    assert not board.worker.is_alive() and 'Stopped' in board.status.value and not board.train.disabled
    board.clear.click(); assert not board.runs and not board.curves

def test_a_training_that_fails_says_why():
    def broken(clip, cfg, every):
        raise RuntimeError('the clip has no face')
        yield
    board = AblationBoard(None, learn=broken)
    board.begin(); board.worker.join(20)
    assert 'the clip has no face' in board.status.value and not board.train.disabled and board.stop.disabled
