"What a wheel holds, what an import costs, and that the version and README say one thing"
import ast, os, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

root = Path(__file__).resolve().parents[1]
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
package = root/'syncgaussian'
files = sorted(p for p in package.rglob('*') if p.is_file() and '__pycache__' not in p.parts)
core,lab,dev = (set(cfg[k].split()) for k in ('requirements', 'lab_requirements', 'dev_requirements'))
LAB_PACKAGES = 'ipywidgets','anywidget','plotly','IPython','ipykernel','traitlets','jupyterlab','notebook','nbdev'

def dotted(path):
    "syncgaussian/clip/masks.py -> clip.masks; a folder's face -> its folder: clip"
    parts = path.relative_to(package).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1]=='__init__' else parts)

paths = {dotted(p):p for p in files if p.suffix=='.py' and p.stem not in ('__main__', '_modidx') and dotted(p)}
modules = sorted(paths)

def needs_lab(module): return module in ('show.widgets', 'show.viewer') or module.split('.')[0]=='boards'

core_modules,lab_modules = [m for m in modules if not needs_lab(m)],[m for m in modules if needs_lab(m)]

def run(code, **kw):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300, **kw)

def run_without_lab(code):
    "As after `pip install syncgaussian`: what [lab] brings cannot be imported"
    return run(f'import sys\nfor name in {LAB_PACKAGES}: sys.modules[name] = None\n{code}', cwd=root)

@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "A wheel built from a copy of the sources"
    src,out = tmp_path_factory.mktemp('src'),tmp_path_factory.mktemp('wheel')
    for name in 'settings.ini','setup.py','pyproject.toml','README.md','LICENSE':
        if (root/name).exists(): shutil.copy(root/name, src)
    for name in 'syncgaussian','data_samples':
        shutil.copytree(root/name, src/name, ignore=shutil.ignore_patterns('__pycache__'))
    cmd = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation',
           '--disable-pip-version-check', '-w', out, src]
    done = subprocess.run(cmd, capture_output=True, text=True, timeout=300)
    assert done.returncode==0, done.stderr[-3000:]
    return next(out.glob('*.whl'))

def test_wheel_holds_what_it_needs_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    needed = [p for p in files if p.suffix=='.py' or p.parent==package/'static']
    assert {p.relative_to(root).as_posix() for p in needed}<=set(names)
    shipped = [p for p in (root/'data_samples').glob('[!.]*') if p.is_file()]
    assert {f'syncgaussian/data_samples/{p.name}' for p in shipped}<=set(names)
    assert any(n.endswith('LICENSE') for n in names)
    assert {n.split('/')[0] for n in names}=={'syncgaussian', wheel.name.split('-py3')[0]+'.dist-info'}
    assert wheel.stat().st_size<12e6

def test_wheel_metadata(wheel):
    info = wheel.name.split('-py3')[0]+'.dist-info/'
    z = zipfile.ZipFile(wheel)
    meta = Parser().parsestr(z.read(info+'METADATA').decode())
    wanted = [Requirement(r) for r in meta.get_all('Requires-Dist')]
    def brings(extra): return {r.name for r in wanted if r.marker and r.marker.evaluate({'extra': extra})}
    assert {r.name for r in wanted if not r.marker}==core
    assert set(meta.get_all('Provides-Extra'))=={'lab', 'dev'}
    assert brings('lab')==lab and brings('dev')==lab|dev
    assert meta['Version']==cfg['version'] and any(k.startswith('License') for k in meta.keys())
    assert cfg['console_scripts'].replace('=', ' = ') in z.read(info+'entry_points.txt').decode()

def test_unpacked_wheel_works_outside_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path/'lib')
    code = '''import syncgaussian
from syncgaussian.samples import sample_file
print(syncgaussian.__file__, sample_file("."))'''
    r = run(code, cwd=tmp_path, env={**os.environ, 'PYTHONPATH':str(tmp_path/'lib')})
    lib = tmp_path/'lib/syncgaussian'
    assert r.returncode==0 and r.stdout.split()==[str(lib/'__init__.py'), str(lib/'data_samples')], r.stderr

def test_one_version():
    r = run('import syncgaussian; print(syncgaussian.__version__)', cwd=root)
    assert r.stdout.strip()==cfg['version'], r.stderr

def test_constraints_name_every_requirement():
    lines = (root/'constraints.txt').read_text().splitlines()
    pinned = {canonicalize_name(l.split('==')[0]) for l in lines if '==' in l}
    assert {canonicalize_name(r) for r in core|lab|dev}<=pinned
    assert not any(p.startswith(('nvidia-', 'cuda-')) for p in pinned)

def test_import_is_quick():
    r = run('import time; t=time.time(); import syncgaussian; print(time.time()-t)', cwd=root)
    assert float(r.stdout)<3, r.stderr

def test_imports_leave_heavy_libraries_alone():
    "Neither the models' libraries in any room, nor the lab's in a room that has no widgets"
    code = f"""import importlib, sys
heavy = 'mediapipe','transformers','librosa','gsplat'
for m in {core_modules+lab_modules}:
    importlib.import_module('syncgaussian.'+m)
    for name in heavy + ({LAB_PACKAGES} if m in {core_modules} else ()):
        if name in sys.modules: sys.exit(f'syncgaussian.{{m}} imports {{name}}')"""
    r = run(code, cwd=root)
    assert r.returncode==0, r.stderr[-3000:]

def test_every_room_without_widgets_works_without_the_lab():
    "Preparation, training, synthesis, scores and the command line among them"
    named = {'preparation', 'training.stages', 'synthesis.film', 'synthesis.held_out', 'scores.video', 'cli'}
    assert named<=set(core_modules)
    r = run_without_lab(f"""import importlib
for m in {core_modules}: importlib.import_module('syncgaussian.'+m)""")
    assert r.returncode==0, r.stderr[-3000:]

def test_a_widget_without_the_lab_says_how_to_get_it():
    assert 'show.widgets' in lab_modules
    r = run_without_lab(f"""import importlib
for m in {lab_modules}:
    try: importlib.import_module('syncgaussian.'+m)
    except ImportError as e:
        if 'pip install "syncgaussian[lab]"' not in str(e): sys.exit(f'syncgaussian.{{m}}: {{e}}')
    else:
        if m=='show.widgets': sys.exit('the lab is not missed')""")
    assert r.returncode==0, r.stderr[-3000:]

def test_python_m_syncgaussian():
    cmd = [sys.executable, '-m', 'syncgaussian', '--help']
    r = subprocess.run(cmd, capture_output=True, text=True, timeout=120, cwd=root)
    assert r.returncode==0, r.stderr[-3000:]
    assert all(word in r.stdout for word in ('prepare', 'train', 'synthesize', 'evaluate'))

# What is imported under another name than it is installed by, or comes with something that is named
BROUGHT = dict(PIL='matplotlib', cv2='mediapipe', IPython='ipywidgets', traitlets='ipywidgets',
               huggingface_hub='transformers', skimage='scikit-image')

@pytest.mark.parametrize('module', modules)
def test_every_import_is_a_declared_requirement(module):
    "Among the requirements, or the lab's in a room with widgets; the puppet may ask for scikit-image"
    tree = ast.parse(paths[module].read_text(encoding='utf-8'))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
    names = {n.split('.')[0] for n in names}-{*sys.stdlib_module_names, 'syncgaussian'}
    known = core | (lab if needs_lab(module) else set()) | ({'scikit-image'} if module.startswith('puppet.') else set())
    assert {BROUGHT.get(n, n) for n in names}<=known

def test_readme_is_made_from_the_index_notebook():
    if not (root/'nbs/index.ipynb').exists(): pytest.skip('no nbs/index.ipynb')
    r = subprocess.run([sys.executable, root/'tools/readme.py', '--check'], capture_output=True, text=True, timeout=120)
    assert r.returncode==0, r.stderr
