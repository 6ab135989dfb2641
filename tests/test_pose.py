"Head pose: known truth, degenerate input, jitter, the sample clip's numbers, real clips where they lie beside the checkout"
import subprocess, sys, warnings

import numpy as np
import pytest

from syncgaussian.pose.geometry import (Jitter, PoseError, canonical_face, move_poses, pose_jitter, project, rotation_error, so3_exp, so3_log)
from syncgaussian.pose.keypoints import KeyFrames, Tracks, choose_key_frames, scratch_array
from syncgaussian.pose.rough import RoughPose, fill_poses, search_focal_length, steady_vertices, track_head_motion
from syncgaussian.pose.stable import bundle_adjust, estimate_head_pose, load_pose, refine_focal_length, save_pose

SIZE, FOCAL = 256, 480.

def motion(n, speed=1.):
    "Smooth viewmats [n,4,4]: 30 degrees of turn, 12 of nod, some tilt, a few centimetres of sway"
    t = np.arange(n)/25*speed
    w = np.radians(np.stack([6*np.sin(2*t+1), 15*np.sin(1.1*t), 4*np.sin(1.6*t+2)], -1))
    v = np.tile(np.eye(4), (n,1,1)); v[:,:3,:3] = np.diag([1.,-1,-1])@so3_exp(w)
    v[:,:3,3] = np.stack([.01*np.sin(1.3*t), .01*np.cos(1.1*t), .75+.03*np.sin(.9*t)], -1)
    return v

def landmarks_of(verts, viewmats, noise=0., seed=0):
    "Landmarks [T,478,3]: projected vertices and ten idle ones"
    uv = project(verts, viewmats, FOCAL, SIZE); uv = uv+np.random.default_rng(seed).normal(size=uv.shape)*noise
    return np.concatenate([np.pad(uv, ((0,0),(0,10),(0,0))), np.zeros((len(uv),478,1))], -1)

def someone(seed=0):
    "A person's vertices: the canonical face bent smoothly by some millimetres"
    v,rng = canonical_face()[0], np.random.default_rng(seed)
    return v+sum(.0012*np.sin(v@rng.normal(size=3)/.05+rng.uniform(0,6))[:,None]*rng.normal(size=3) for _ in range(4))

def rough_pose(viewmats, verts=None):
    "What landmarks tell, made up"
    return RoughPose(viewmats, canonical_face()[0] if verts is None else verts, np.ones(len(viewmats), bool), FOCAL, SIZE)

class Still:
    "A clip in memory: pictures, labels, landmarks"
    def __init__(self, landmarks, picture=None, found=None):
        n = len(landmarks); self.landmarks, self.size, self.n_frames = landmarks, SIZE, n
        self.found = np.ones(n, bool) if found is None else found
        self.picture = np.zeros((SIZE,SIZE,3), np.uint8) if picture is None else picture
    def frames(self, idx): return np.repeat(self.picture[None], len(idx), 0)
    def labels(self, idx): return np.full((len(idx),SIZE,SIZE), 3, np.uint8)

@pytest.fixture(scope='module')
def texture():
    import cv2
    noise = np.random.default_rng(0).uniform(0, 255, (SIZE,SIZE,3)).astype(np.float32)
    blur = cv2.GaussianBlur(noise, (0,0), 2); return ((blur-blur.min())/np.ptp(blur)*255).astype(np.uint8)

# ---- parts -------------------------------------------------------------------------------------------------------

def test_import_is_light():
    code = "import sys, syncgaussian.pose; print([m for m in ('mediapipe','cv2','scipy','torch','librosa') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='[]'

def test_canonical_face():
    verts,faces = canonical_face()
    assert verts.shape==(468,3) and faces.shape==(898,3) and faces.max()<468
    assert .1<np.ptp(verts[:,0])<.2 and verts[1,2]>verts[10,2] # metres; the nose is in front
    idx,w = steady_vertices()
    assert len(set(idx))==len(idx)==len(w) and (0<w).all() and (w<=1).all()

@pytest.mark.parametrize('angle', [0, 1e-9, 1e-3, 1., 3.])
def test_exp_and_log(angle):
    w = np.random.default_rng(1).normal(size=(20,3)); w *= angle/np.linalg.norm(w, axis=1, keepdims=True)
    assert np.allclose(so3_log(so3_exp(w)), w, atol=1e-7)

def test_jitter_definition():
    v = np.tile(motion(1), (1000,1,1)); k = np.arange(1000)[:,None]
    assert pose_jitter(v)==Jitter(0,0)
    steady = move_poses(v, k*np.r_[0,2e-4,0,1e-4,0,0]) # even turn and shift: no jitter
    assert max(pose_jitter(steady))<1e-5
    shake = move_poses(v, np.where(k%2, 1., 0)*np.r_[0,0,np.radians(.5),0,1e-3,0]) # +-: second difference is twice the step
    assert np.allclose(pose_jitter(shake), (1.,2.), rtol=1e-3)
    assert pose_jitter(v[:2])==Jitter(0,0)

def test_error_is_blind_to_axes_only():
    v = motion(50); g = np.eye(4); g[:3,:3] = so3_exp(np.array([.2,-.1,.3])); g[:3,3] = .02
    assert rotation_error(v@g, v).max()<1e-4
    assert rotation_error(motion(50, 1.5), v).max()>1

def test_filled_poses():
    v = motion(40); ok = np.ones(40, bool); ok[[0,1,10,11,12,39]] = False
    broken = v.copy(); broken[~ok] = np.nan
    out = fill_poses(broken, ok)
    assert np.isfinite(out).all() and rotation_error(out, v)[10:13].max()<.2
    assert np.array_equal(out[0], v[2]) and np.array_equal(out[39], v[38])

# ---- landmarks ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('seed', [0,1,2])
def test_focal_length_of_known_truth(seed):
    lm = landmarks_of(someone(seed), motion(200), .3, seed); s = search_focal_length(lm, SIZE)
    assert abs(s.focal/FOCAL-1)<.15 and s.costs.shape==s.errors.shape==(16,)
    assert s.candidates[0]<s.focal<s.candidates[-1]

def test_exact_landmarks_give_the_exact_lens():
    s = search_focal_length(landmarks_of(canonical_face()[0], motion(100)), SIZE, np.geomspace(.9,1.1,9)*FOCAL)
    assert abs(s.focal/FOCAL-1)<.01

def test_rough_poses_of_known_truth():
    truth = motion(120); own = someone()
    v,verts,found,focal,size = track_head_motion(landmarks_of(own, truth, .2), SIZE, FOCAL)
    assert (focal, size)==(FOCAL, SIZE) and found.all() and np.median(rotation_error(v, truth))<.6 and (v[:,2,2]<0).all()
    idx,_ = steady_vertices(); d = lambda x: np.linalg.norm((x-x.mean(0))-(own[idx]-own[idx].mean(0)), axis=1).mean()
    assert d(verts[idx])<d(canonical_face()[0][idx])

def test_frames_without_a_face():
    truth = motion(60); lm = landmarks_of(someone(), truth, .2); gone = [0,20,21,22,59]; lm[gone] = np.nan
    v,_,found,*_ = track_head_motion(lm, SIZE, FOCAL)
    assert np.flatnonzero(~found).tolist()==gone and np.isfinite(v).all() and rotation_error(v, truth).max()<2.5

@pytest.mark.parametrize('n', [0, 1, 2])
def test_too_few_faces(n):
    lm = np.full((10,478,3), np.nan); lm[:n] = landmarks_of(someone(), motion(max(n,1)))[:n]
    with pytest.raises(PoseError, match=f'only {n} of 10 frames show a face'): search_focal_length(lm, SIZE)
    with pytest.raises(PoseError, match='at least 3'): track_head_motion(lm, SIZE, FOCAL)

def test_some_frames_of_a_rough_pose():
    rough = rough_pose(motion(10)); some = rough.at([2,5])
    assert np.array_equal(some.viewmats, rough.viewmats[[2,5]]) and len(some.found)==2 and some.verts is rough.verts and some[3:]==rough[3:]

# ---- keypoints ---------------------------------------------------------------------------------------------------

def fake_tracks(truth, n=150, noise=.05, lost=.3, wrong=.05, seed=0):
    "Keypoints on a face, seen with noise, some lost, some wrong"
    rng = np.random.default_rng(seed); verts = someone(); x = verts[rng.choice(468, n)]+rng.normal(size=(n,3))*.003
    xy = project(x, truth, FOCAL, SIZE)+rng.normal(size=(len(truth),n,2))*noise
    bad = rng.random((len(truth),n))<wrong; xy[bad] += rng.normal(size=(bad.sum(),2))*5
    w = (rng.random((len(truth),n))>lost)*1.; key = rng.choice(np.linspace(0, len(truth)-1, 5).astype(int), n)
    return verts, Tracks(np.where(w[...,None]>0, xy, 0), w, key, project(x, truth, FOCAL, SIZE)[key,np.arange(n)], np.zeros(n))

def test_bundle_of_known_truth():
    truth = motion(150); verts,tracks = fake_tracks(truth); rng = np.random.default_rng(3)
    rough = move_poses(truth, rng.normal(size=(150,6))*np.r_[np.full(3,np.radians(.6)), .001,.001,.004])
    b = bundle_adjust(tracks, rough_pose(rough, verts))
    assert np.median(rotation_error(b.viewmats, truth))<.15<np.median(rotation_error(rough, truth))
    assert all(s<=.5*r and s<=1.5*t for s,r,t in zip(pose_jitter(b.viewmats), pose_jitter(rough), pose_jitter(truth)))
    assert np.median(b.second)<.15<np.median(b.first)
    assert np.array_equal(bundle_adjust(tracks, rough_pose(rough, verts)).viewmats, b.viewmats) # the same each time

def test_tracks_in_a_file_are_the_same_as_in_memory():
    truth = motion(150); verts,tracks = fake_tracks(truth); filed = tracks._replace(xy=scratch_array(*tracks.xy.shape), weights=scratch_array(*tracks.weights.shape))
    filed.xy[:], filed.weights[:] = tracks.xy, tracks.weights
    tracks = tracks._replace(xy=tracks.xy.astype(np.float32), weights=tracks.weights.astype(np.float32))
    a, b = (bundle_adjust(t, rough_pose(truth, verts)) for t in (tracks, filed))
    assert isinstance(b.tracks.xy, np.memmap) and np.array_equal(b.tracks.xy, a.tracks.xy) and np.array_equal(a.tracks.weights, b.tracks.weights)
    assert np.allclose(a.viewmats, b.viewmats, atol=1e-9) and np.allclose(a.second, b.second, atol=1e-9)

def test_a_long_clip_is_read_a_few_frames_at_a_time():
    "No step asks for more than some thousand frames of landmarks at once"
    class Counted:
        "10,000 frames of 400 repeated ones"
        def __init__(self): self.rows, self.most = landmarks_of(someone(), motion(400), .2), 0
        def __len__(self): return 10000
        def __getitem__(self, t):
            t = np.arange(10000)[t]; self.most = max(self.most, np.size(t)); return self.rows[t%400]
    lm = Counted(); s = search_focal_length(lm, SIZE, [FOCAL*.9, FOCAL, FOCAL*1.1]); v,_,found,*_ = track_head_motion(lm, SIZE, FOCAL)
    assert lm.most<3100 and found.all() and np.allclose(v[:400], v[4000:4400], atol=1e-6)

def test_bundle_survives_frames_with_nothing_seen():
    truth = motion(80); verts,tracks = fake_tracks(truth); w = tracks.weights.copy(); w[30:34] = 0; w[:,5] = 0
    b = bundle_adjust(tracks._replace(weights=w), rough_pose(truth, verts))
    assert np.isfinite(b.viewmats).all() and np.isfinite(b.points).all() and np.isnan(b.second[30:34]).all()
    assert rotation_error(b.viewmats, truth).max()<1

def test_focal_length_from_keypoints():
    truth = motion(150); verts,tracks = fake_tracks(truth); s = refine_focal_length(tracks, landmarks_of(verts, truth, .3), SIZE)
    assert abs(s.focal/FOCAL-1)<.05

def test_key_frames_cover_the_motion():
    v = motion(300); k = choose_key_frames(v, np.ones(300))
    assert isinstance(k, KeyFrames) and 2<=len(k.frames)<=6 and ((k.weights>0).sum(1)<=2).all() and (k.weights.max(1)>.99).all()
    blink = np.ones(300); blink[:200] = np.inf
    assert (choose_key_frames(v, blink).frames>=200).all()
    assert len(choose_key_frames(np.tile(v[:1],(5,1,1)), np.ones(5)).frames)>=1

# ---- whole -------------------------------------------------------------------------------------------------------

def test_constant_pose(texture):
    lm = np.repeat(landmarks_of(someone(), motion(1)), 30, 0)
    with warnings.catch_warnings(): # no motion, no perspective: a note about the lens is fine, anything else is not
        warnings.filterwarnings('ignore', message='the keypoints'); pose = estimate_head_pose(Still(lm, texture), save=False)
    assert pose.method=='stable' and np.isfinite(pose.viewmats).all() and max(pose_jitter(pose.viewmats))<.02

def test_three_frames(texture):
    pose = estimate_head_pose(Still(np.repeat(landmarks_of(someone(), motion(1)), 3, 0), texture), focal=FOCAL, save=False)
    assert pose.viewmats.shape==(3,4,4) and np.isfinite(pose.viewmats).all() and pose.focal==FOCAL

def test_no_texture_is_said_aloud():
    clip = Still(landmarks_of(someone(), motion(40), .3)); clip.labels = lambda idx: np.zeros((len(idx),SIZE,SIZE), np.uint8)
    with pytest.warns(UserWarning, match='keypoints could be followed'): pose = estimate_head_pose(clip, focal=FOCAL, save=False)
    assert pose.method=='smoothed' and len(pose.notes)==1 and pose.points is None
    assert pose_jitter(pose.viewmats).rotation<pose_jitter(pose.rough_viewmats).rotation
    assert np.median(rotation_error(pose.viewmats, motion(40)))<1.5

def test_rough_only_and_files(tmp_path):
    truth = motion(30); found = np.ones(30, bool); found[7] = False; clip = Still(landmarks_of(someone(), truth, .2), found=found); clip.dir = tmp_path
    pose = estimate_head_pose(clip, stable=False, focal=FOCAL); again = load_pose(tmp_path)
    assert pose.method==again.method=='rough' and np.array_equal(pose.viewmats, pose.rough_viewmats)
    assert np.allclose(again.viewmats, pose.viewmats, atol=1e-6) and again.found.tolist()==found.tolist() and again.notes==[]
    assert [p.name for p in tmp_path.iterdir()]==['pose.npz'] and np.allclose(again.K, [[FOCAL,0,128],[0,FOCAL,128],[0,0,1]])
    pose.search = search_focal_length(clip.landmarks, SIZE); save_pose(tmp_path, pose)
    assert np.isclose(load_pose(tmp_path).search.focal, pose.search.focal)
    with pytest.raises(PoseError, match='run estimate_head_pose'): load_pose(tmp_path/'nowhere')

def test_sample_clip_against_truth(tmp_path):
    from syncgaussian.clip import prepare_clip
    from syncgaussian.samples import sample_clip_path, sample_truth
    clip, truth = prepare_clip(sample_clip_path(), tmp_path/'clip', size=256, progress=False), sample_truth()
    pose = estimate_head_pose(clip); v = truth['viewmats'].astype(float)
    assert abs(pose.focal/float(truth['focal'])-1)<=.05
    assert np.median(rotation_error(pose.viewmats, v))<=.5
    for s,r,t in zip(pose_jitter(pose.viewmats), pose_jitter(pose.rough_viewmats), pose_jitter(v)): assert s<=r/2 and s<=1.5*t
    assert np.median(pose.reprojection)*512/256<1 and pose.method=='stable' and not pose.notes
    back = load_pose(clip)
    assert np.abs(back.viewmats-pose.viewmats).max()<1e-5 and back.method=='stable'

@pytest.mark.slow
@pytest.mark.parametrize('name', ['anchor_de_20s','speech_en_10s','hdtf_a_8s','hdtf_b_8s','Obama_clip1','reagan_clip1','KristiNoem'])
def test_real_clips(shared, tmp_path, name):
    from syncgaussian.clip import prepare_clip
    video = shared/'talking'/f'{name}.mp4'; sound = video.with_suffix('.wav')
    clip = prepare_clip(video, tmp_path/'clip', size=512, sound=sound if sound.is_file() else None, progress=False)
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); pose = estimate_head_pose(clip, save=False)
    assert pose.method=='stable' and np.nanmedian(pose.reprojection)<1
    assert np.isfinite(pose.viewmats).all() and (pose.viewmats[:,2,2]<0).all() and (pose.viewmats[:,2,3]>0).all()
    assert all(s<=r/2 for s,r in zip(pose_jitter(pose.viewmats), pose_jitter(pose.rough_viewmats)))
