"The ancestors' folder: what their loaders read, there and back, and folders that lack something"
import csv, json, shutil, warnings

import numpy as np
import pytest

from syncgaussian.clip import LABELS, Clip, ClipError, prepare_clip
from syncgaussian.ernerf_folder import POINTS_68, from_opengl, read_ernerf, to_opengl, write_ernerf
from syncgaussian.pose import HeadPose, canonical_face, load_pose, save_pose
from syncgaussian.pose.geometry import so3_exp
from syncgaussian.samples import sample_clip_path, sample_truth

N, SIZE = 55, 128

@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    "The beginning of the sample, with its true poses and features of two kinds"
    d = tmp_path_factory.mktemp('ernerf')
    c, t = prepare_clip(sample_clip_path(), d/'clip', size=SIZE, max_seconds=N/25, progress=False), sample_truth()
    v = np.asarray(t['viewmats'][:N], np.float32)
    save_pose(c, HeadPose(float(t['focal'])*SIZE/256, SIZE, v, v, canonical_face()[0], np.ones(N, bool)))
    (c.dir/'features').mkdir()
    rng = np.random.default_rng(0)
    np.save(c.dir/'features/facebook_hubert-large-ls960-ft.npy', rng.normal(size=(N,2,1024)).astype(np.float16))
    np.save(c.dir/'features/ave-synctalk.npy', rng.normal(size=(N,1,512)).astype(np.float16))
    return c

@pytest.fixture(scope='module')
def theirs(clip, tmp_path_factory): return write_ernerf(clip, tmp_path_factory.mktemp('out')/'theirs')

@pytest.fixture
def copy(theirs, tmp_path): return shutil.copytree(theirs, tmp_path/'copy')

def picture(path):
    from PIL import Image
    return np.array(Image.open(path)).astype(int)

def test_what_their_loaders_read(clip, theirs):
    "The same steps as a training program's: lens, camera, masks, background, points, features"
    train, val = (json.loads((theirs/f'transforms_{n}.json').read_text()) for n in ('train','val'))
    assert len(train['frames'])==int(N*10/11) and [f['img_id'] for f in train['frames']+val['frames']]==list(range(N))
    assert (train['cx'], train['cy'])==(SIZE/2, SIZE/2) and train['focal_len']==load_pose(clip).focal
    views = load_pose(clip).viewmats
    bc, labels, backdrop, frames = picture(theirs/'bc.jpg'), clip.labels(), clip.backdrop(), clip.frames()
    for f in [*train['frames'][::10], *val['frames'][::2]]:
        k = f['img_id']
        c2w = np.array(f['transform_matrix']); c2w[:3,1:3] *= -1; w2c = np.linalg.inv(c2w)
        assert abs(w2c-views[k]).max()<1e-6 and abs(w2c[:3,:3]@w2c[:3,:3].T-np.eye(3)).max()<1e-5
        mask, teeth = picture(theirs/f'parsing/{k}.png'), np.load(theirs/f'teeth_mask/{k}.npy')
        assert teeth.dtype==bool and mask.shape==(SIZE,SIZE,3)
        r,g,b = np.moveaxis(mask, -1, 0)
        assert ((((b>254) & (r==0) & (g==0)) ^ teeth)==(labels[k]==LABELS['face'])).all()
        assert (((r<1) & (g<1) & (b<1))==(labels[k]==LABELS['hair'])).all() and ((((r==100) & (g==100) & (b==100)) | teeth)==(labels[k]==LABELS['mouth'])).all()
        torso = picture(theirs/f'torso_imgs/{k}.png')
        assert torso.shape==(SIZE,SIZE,4)
        under = torso[...,:3]*(torso[...,3:]/255)+bc*(1-torso[...,3:]/255)
        assert abs(under-backdrop[k])[labels[k]>0].mean()<2
        gt, original = picture(theirs/f'gt_imgs/{k}.jpg'), picture(theirs/f'ori_imgs/{k}.jpg')
        assert abs(original-frames[k]).mean()<3 and abs(gt-frames[k])[labels[k]>0].mean()<3 and abs(gt-bc)[labels[k]==0].mean()<4
        points = np.loadtxt(theirs/f'ori_imgs/{k}.lms')
        assert np.allclose(points, clip.landmarks[k][list(POINTS_68),:2], atol=1e-5)
    hu, ave = np.load(theirs/'aud_hu.npy'), np.load(theirs/'aud_ave.npy')
    assert hu.shape==(N,2,1024) and hu.dtype==np.float32 and ave.shape==(N,512)

def test_action_units(clip, theirs):
    with open(theirs/'au.csv') as f: rows = list(csv.DictReader(f))
    assert len(rows)==N
    for k in (1,4,5,6,7,25,45): assert all(0<=float(r[f' AU{k:02d}_r'])<=5 for r in rows)
    gap, au25 = clip.mouth_opening(), np.array([float(r[' AU25_r']) for r in rows])
    assert np.corrcoef(gap, au25)[0,1]>.95
    blink = np.array([float(r[' AU45_r']) for r in rows]).clip(0, 2)/2
    assert np.allclose(blink, np.asarray(clip.blendshapes)[:,9:11].mean(1), atol=1e-3)

def test_there_and_back(clip, theirs, tmp_path):
    back = read_ernerf(theirs, tmp_path/'back', progress=False)
    assert any('masks from parsing' in n['text'] for n in back.manifest.data['notes'])
    a, b = load_pose(clip), load_pose(back)
    assert abs(a.viewmats-b.viewmats).max()<1e-6 and abs(a.rough_viewmats-b.rough_viewmats).max()<1e-6 and abs(a.focal/b.focal-1)<1e-6
    assert (back.labels()==clip.labels()).all() and np.allclose(back.wave, clip.wave, atol=1e-4) and back.head_box()==clip.head_box()
    assert abs(back.frames().astype(int)-clip.frames()).mean()<3 and abs(back.background.astype(int)-clip.background).mean()<2
    assert np.median(np.linalg.norm((back.landmarks-clip.landmarks)[...,:2], axis=-1))<1
    assert np.array_equal(back.features('facebook/hubert-large-ls960-ft'), clip.features('facebook/hubert-large-ls960-ft'))
    assert np.array_equal(back.features('ave-synctalk'), clip.features('ave-synctalk'))
    before = {p: p.stat().st_mtime_ns for p in back.dir.rglob('*.p*')}
    read_ernerf(theirs, tmp_path/'back', progress=False) # a second time nothing is left to do
    assert before=={p: p.stat().st_mtime_ns for p in back.dir.rglob('*.p*')}
    from syncgaussian.preparation import add_pose
    add_pose(back) # their poses stay
    assert before=={p: p.stat().st_mtime_ns for p in back.dir.rglob('*.p*')}

def test_any_pose_comes_back():
    rng = np.random.default_rng(0)
    v = np.tile(np.eye(4), (500,1,1)); v[:,:3,:3] = so3_exp(rng.normal(size=(500,3))*3); v[:,:3,3] = rng.normal(size=(500,3))*5
    assert abs(from_opengl(json.loads(json.dumps(to_opengl(v).tolist())))-v).max()<1e-9

def test_without_masks_and_background(copy, tmp_path):
    for name in ('parsing', 'teeth_mask', 'torso_imgs', 'gt_imgs'): shutil.rmtree(copy/name)
    (copy/'bc.jpg').unlink(), (copy/'au.csv').unlink()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always'); c = read_ernerf(copy, tmp_path/'c', progress=False)
    assert any('there is no parsing' in str(w.message) and 'no bc.jpg' in str(w.message) for w in said)
    assert set(np.unique(c.labels()))>={0,1,3,4}

def edit(path, change):
    data = json.loads(path.read_text()); change(data); path.write_text(json.dumps(data))

@pytest.mark.parametrize('harm,word', [
    (lambda d: (d/'transforms_train.json').unlink(), r'transforms_train\.json is missing'), (lambda d: (d/'aud.wav').unlink(), r'aud\.wav is missing'),
    (lambda d: (d/'ori_imgs/3.jpg').unlink(), r'ori_imgs/3\.jpg is missing'), (lambda d: (d/'transforms_val.json').write_text('{'), r'transforms_val\.json is damaged'),
    (lambda d: edit(d/'transforms_val.json', lambda x: x.pop('focal_len')), 'focal_len'), (lambda d: (d/'ori_imgs/0.jpg').write_bytes(b'x'), r'0\.jpg'),
    (lambda d: edit(d/'transforms_train.json', lambda x: x['frames'].pop(5)), 'gaps'), (lambda d: edit(d/'transforms_train.json', lambda x: x.update(cx=9)), 'disagree'),
    (lambda d: edit(d/'transforms_val.json', lambda x: x['frames'][0]['transform_matrix'][0].__setitem__(0, float('nan'))), 'not numbers'),
    (lambda d: shutil.rmtree(d), 'no such folder')])
def test_what_is_missing_is_named(copy, tmp_path, harm, word):
    harm(copy)
    with pytest.raises(ClipError, match=word): read_ernerf(copy, tmp_path/'c', progress=False)

def test_lens_off_the_middle_and_other_units(copy, tmp_path):
    for n in ('train','val'): edit(copy/f'transforms_{n}.json', lambda x: x.update(cx=40))
    with pytest.raises(ClipError, match='principal point'): read_ernerf(copy, tmp_path/'c', progress=False)
    def tenfold(x):
        x.update(cx=SIZE/2)
        for f in x['frames']:
            for row in f['transform_matrix'][:3]: row[3] *= 10
    for n in ('train','val'): edit(copy/f'transforms_{n}.json', tenfold)
    with pytest.warns(UserWarning, match='times as large'): read_ernerf(copy, tmp_path/'c', progress=False)

def test_refusals(clip, theirs, tmp_path):
    (tmp_path/'full').mkdir(), (tmp_path/'full/letter.txt').write_text('keep me')
    for use in (lambda: write_ernerf(clip, tmp_path/'full'), lambda: read_ernerf(theirs, tmp_path/'full', progress=False)):
        with pytest.raises(ClipError, match='not empty'): use()
    with pytest.raises(ClipError, match='another source'): read_ernerf(theirs, clip.dir, progress=False)
    shutil.copytree(clip.dir, tmp_path/'bare'), (tmp_path/'bare/pose.npz').unlink()
    with pytest.raises(ClipError, match='no head pose'): write_ernerf(Clip(tmp_path/'bare'), tmp_path/'x')
    assert not (tmp_path/'x').exists()
