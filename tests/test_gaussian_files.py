"Gaussians in files: what gsplat writes is what we write, and a file from somewhere else cannot hurt"
import os, re, tracemalloc
import numpy as np
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from syncgaussian.splat import GaussianFileError, Gaussians, load_ply, load_splat, save_ply, save_splat


def make(n=50, degree=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g)
    return Gaussians(r(n,3), r(n,4), r(n,3)-4, r(n), r(n,1,3), r(n,(degree+1)**2-1,3)*.1)

def exported(gaussians, kind):
    export_splats = pytest.importorskip('gsplat').export_splats
    g = {k: p.detach() for k,p in gaussians.named_parameters()}
    return export_splats(g['means'], g['log_scales'], g['quats'], g['logit_opacities'], g['sh0'], g['shN'], format=kind)


@pytest.mark.parametrize('n', [1, 50, 3000])
@pytest.mark.parametrize('degree', [0, 1, 2, 3])
def test_bytes_are_those_of_gsplat(tmp_path, n, degree):
    cloud = make(n, degree)
    save_ply(cloud, tmp_path/'a.ply'); save_splat(cloud, tmp_path/'a.splat')
    assert (tmp_path/'a.ply').read_bytes()==exported(cloud, 'ply')
    assert (tmp_path/'a.splat').read_bytes()==exported(cloud, 'splat')


@pytest.mark.parametrize('n', [0, 1, 40])
@pytest.mark.parametrize('degree', [0, 1, 2, 3])
def test_ply_comes_back_to_the_bit(tmp_path, n, degree):
    cloud = make(n, degree)
    save_ply(cloud, tmp_path/'a.ply')
    for (name, a), (_, b) in zip(cloud.named_parameters(), load_ply(tmp_path/'a.ply').named_parameters()):
        assert a.shape==b.shape and torch.equal(a, b), name


def test_splat_comes_back_rounded(tmp_path):
    cloud = make(300)
    save_splat(cloud, tmp_path/'a.splat')
    back = load_splat(tmp_path/'a.splat')
    nearest = torch.cdist(back.means, cloud.means).argmin(1)
    assert sorted(nearest.tolist())==list(range(300))
    torch.testing.assert_close(back.log_scales, cloud.log_scales[nearest], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back.opacities, cloud.opacities[nearest], rtol=0, atol=1/200)
    unit = torch.nn.functional.normalize
    assert (unit(back.quats)*unit(cloud.quats[nearest])).sum(1).min() > .999


def test_other_columns_and_comments_are_fine(tmp_path):
    cloud = make(7)
    save_ply(cloud, tmp_path/'a.ply')
    head, _, body = (tmp_path/'a.ply').read_bytes().partition(b'end_header\n')
    table = np.frombuffer(body, '<f4').reshape(7, -1)
    head = head.replace(b'1.0\n', b'1.0\ncomment made somewhere\n').replace(b'property float z\n', b'property float z\nproperty double nx\n')
    wide = np.dtype([('a','<f4',3), ('nx','<f8'), ('b','<f4',table.shape[1]-3)])
    rows = np.zeros(7, wide); rows['a'], rows['b'] = table[:,:3], table[:,3:]
    (tmp_path/'b.ply').write_bytes(head+b'end_header\n'+rows.tobytes())
    assert all(torch.equal(a, b) for a,b in zip(cloud.parameters(), load_ply(tmp_path/'b.ply').parameters()))


HOSTILE = {
    'empty': lambda d: b'',
    'other file': lambda d: b'\x89PNG\r\n'+d,
    'no end of header': lambda d: d.replace(b'end_header', b'eeeeeeeeee'),
    'endless header': lambda d: b'ply\nformat binary_little_endian 1.0\n'+b'comment x\n'*100_000+d,
    'ascii': lambda d: d.replace(b'binary_little_endian', b'ascii'),
    'big endian': lambda d: d.replace(b'little', b'big'),
    'cut short': lambda d: d[:-1],
    'too long': lambda d: d+b'\0',
    'too many': lambda d: d.replace(b'vertex 9', b'vertex 999999999999'),
    'negative': lambda d: d.replace(b'vertex 9', b'vertex -9'),
    'absurd': lambda d: d.replace(b'vertex 9', b'vertex '+b'9'*400),
    'not a number': lambda d: d.replace(b'vertex 9', b'vertex nine'),
    'one field more': lambda d: d.replace(b'vertex 9', b'vertex 9 9'),
    'faces': lambda d: d.replace(b'end_header', b'element face 1000000000\nend_header'),
    'lists': lambda d: d.replace(b'property float x\n', b'property list uchar int x\n'),
    'unknown type': lambda d: d.replace(b'float x', b'quad x'),
    'twice': lambda d: d.replace(b'float y', b'float x'),
    'no opacity': lambda d: d.replace(b'opacity', b'paleness'),
    'eight colours': lambda d: d.replace(b'f_rest_8', b'g_rest_8'),
    'nothing in a vertex': lambda d: b'ply\nformat binary_little_endian 1.0\nelement vertex 9\nend_header\n',
    'nan': lambda d: d[:-4]+np.float32(np.nan).tobytes(),
    'infinity': lambda d: d[:-4]+np.float32(np.inf).tobytes(),
}

@pytest.mark.parametrize('trick', HOSTILE)
def test_hostile_ply_is_refused_before_memory_is_taken(tmp_path, trick):
    save_ply(make(9), tmp_path/'good.ply')
    path = tmp_path/'bad.ply'
    path.write_bytes(HOSTILE[trick]((tmp_path/'good.ply').read_bytes()))
    tracemalloc.start()
    with pytest.raises(GaussianFileError, match=re.escape(str(path))): load_ply(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_damaged_files_load_or_are_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('damage')
    cloud, kind = make(4, 0), data.draw(st.sampled_from(('ply','splat')))
    path = folder/f'a.{kind}'
    dict(ply=save_ply, splat=save_splat)[kind](cloud, path)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))): damaged[data.draw(st.integers(0, len(damaged)-1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[:data.draw(st.integers(0, len(damaged)))])
    try: back = dict(ply=load_ply, splat=load_splat)[kind](path)
    except GaussianFileError: return
    assert all(p.isfinite().all() for p in back.parameters())


@pytest.mark.parametrize('damage', [lambda d: d[:-1], lambda d: np.float32(np.nan).tobytes()+d[4:], lambda d: d[:12]+np.float32(-1).tobytes()+d[16:]])
def test_damaged_splat_is_refused(tmp_path, damage):
    save_splat(make(9), tmp_path/'a.splat')
    (tmp_path/'a.splat').write_bytes(damage((tmp_path/'a.splat').read_bytes()))
    with pytest.raises(GaussianFileError, match='a.splat'): load_splat(tmp_path/'a.splat')


@pytest.mark.parametrize('save', [save_ply, save_splat])
def test_nan_is_not_saved_and_the_old_file_stays(tmp_path, save):
    cloud, path = make(9), tmp_path/'a'
    save(cloud, path)
    before = path.read_bytes()
    with torch.no_grad(): cloud.means[3] = float('nan')
    with pytest.raises(GaussianFileError, match='1 of 9'): save(cloud, path)
    assert path.read_bytes()==before and os.listdir(tmp_path)==['a']
