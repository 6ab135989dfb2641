"What a wheel holds, what an import costs, and that the version and README say one thing"
import ast, os, re, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
modules = sorted(p.stem for p in (root/'syncgaussian').glob('[!_]*.py'))

def run(code, **kw): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300, **kw)

@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "A wheel built from a copy of the sources"
    src,out = tmp_path_factory.mktemp('src'),tmp_path_factory.mktemp('wheel')
    for name in 'settings.ini','setup.py','pyproject.toml','README.md','LICENSE':
        if (root/name).exists(): shutil.copy(root/name, src)
    for name in 'syncgaussian','data_samples': shutil.copytree(root/name, src/name, ignore=shutil.ignore_patterns('__pycache__'))
    cmd = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--disable-pip-version-check', '-w', out, src]
    done = subprocess.run(cmd, capture_output=True, text=True, timeout=300)
    assert done.returncode==0, done.stderr[-3000:]
    return next(out.glob('*.whl'))

def test_wheel_holds_what_it_needs_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'syncgaussian/{m}.py' for m in modules}<=set(names)
    assert {f'syncgaussian/static/{p.name}' for p in (root/'syncgaussian/static').iterdir() if p.is_file()}<=set(names)
    assert {f'syncgaussian/data_samples/{p.name}' for p in (root/'data_samples').glob('[!.]*') if p.is_file()}<=set(names)
    assert any(n.endswith('LICENSE') for n in names)
    assert {n.split('/')[0] for n in names}=={'syncgaussian', wheel.name.split('-py3')[0]+'.dist-info'}
    assert wheel.stat().st_size<12e6

def test_wheel_metadata(wheel):
    info = wheel.name.split('-py3')[0]+'.dist-info/'
    z = zipfile.ZipFile(wheel)
    meta = z.read(info+'METADATA').decode()
    wanted = re.findall(r'^Requires-Dist: (\S+)$', meta, re.M)
    assert set(wanted)==set(cfg['requirements'].split())
    assert f"Version: {cfg['version']}" in meta and 'License' in meta
    assert cfg['console_scripts'].replace('=', ' = ') in z.read(info+'entry_points.txt').decode()

def test_unpacked_wheel_works_outside_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path/'lib')
    r = run('import syncgaussian; from syncgaussian.assets import sample_file; print(syncgaussian.__file__, sample_file("."))',
            cwd=tmp_path, env={**os.environ, 'PYTHONPATH':str(tmp_path/'lib')})
    assert r.returncode==0 and r.stdout.split()==[str(tmp_path/'lib/syncgaussian/__init__.py'), str(tmp_path/'lib/syncgaussian/data_samples')], r.stderr

def test_one_version():
    r = run('import syncgaussian; print(syncgaussian.__version__)', cwd=root)
    assert r.stdout.strip()==cfg['version'], r.stderr

def test_constraints_name_every_requirement():
    pinned = {l.split('==')[0].lower() for l in (root/'constraints.txt').read_text().splitlines() if '==' in l}
    assert {r for r in cfg['requirements'].split()}<=pinned
    assert not any(p.startswith(('nvidia-', 'cuda-')) for p in pinned)

def test_import_is_quick():
    r = run('import time; t=time.time(); import syncgaussian; print(time.time()-t)', cwd=root)
    assert float(r.stdout)<3, r.stderr

def test_imports_leave_heavy_libraries_alone():
    code = f"""import importlib, sys
for m in {modules}:
    importlib.import_module('syncgaussian.'+m)
    for heavy in 'mediapipe','transformers','librosa','gsplat':
        if heavy in sys.modules: sys.exit(f'syncgaussian.{{m}} imports {{heavy}}')"""
    r = run(code, cwd=root)
    assert r.returncode==0, r.stderr[-3000:]

BROUGHT = dict(PIL='matplotlib', cv2='mediapipe', scipy='librosa', numba='librosa', IPython='jupyterlab', skimage='dev', traitlets='ipywidgets',
               nbformat='nbdev', huggingface_hub='transformers', traittypes='ipywidgets')

@pytest.mark.parametrize('module', modules)
def test_every_import_is_a_declared_requirement(module):
    tree = ast.parse((root/f'syncgaussian/{module}.py').read_text(encoding='utf-8'))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    known = {*cfg['requirements'].split(), *BROUGHT, *sys.stdlib_module_names, 'syncgaussian'}
    assert {n.split('.')[0] for n in names}<=known

def test_readme_is_made_from_the_index_notebook():
    if not (root/'nbs/index.ipynb').exists(): pytest.skip('no nbs/index.ipynb')
    r = subprocess.run([sys.executable, root/'.ci/readme.py', '--check'], capture_output=True, text=True, timeout=120)
    assert r.returncode==0, r.stderr
