"One test a notebook: it runs from top to bottom, in a process of its own, without its `slow` and `gpu` cells"
import json, re, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
notebooks = sorted(p for p in (root/'nbs').glob('*.ipynb') if p.name[0] not in '._')
SECONDS = 600 # Far above the 90 s that a notebook may take on two idle cores: a busy machine is no failure
RUN = """import sys
from nbdev.test import test_nb
ok,_ = test_nb(sys.argv[1], skip_flags=['slow','gpu'], basepath=sys.argv[2], do_print=False)
sys.exit(not ok)"""

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook(path):
    try: r = subprocess.run([sys.executable, '-W', 'ignore', '-c', RUN, path, root], cwd=path.parent, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired: pytest.fail(f'{path.name} did not end within {SECONDS} s')
    assert r.returncode==0, f'{path.name}\n{r.stdout[-1500:]}\n{r.stderr[-6000:]}'

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook_shape(path):
    "A title with one line under it; small; no video in the outputs; no plotly bundle"
    text = path.read_text(encoding='utf-8')
    assert len(text.encode())<=420_000
    assert 'video/mp4' not in text and 'plotly.js v' not in text
    first = ''.join(json.loads(text)['cells'][0]['source'])
    assert re.match(r'# \S.*\n+> \S', first), 'cell 1 is "# Title" and "> one line"'

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook_prose(path):
    "Pictures that the prose shows are there, and folded solutions begin with the empty line without which JupyterLab shows raw markdown"
    prose = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='markdown']
    for text in prose:
        for link in re.findall(r'!\[[^]]*\]\(([^)#:]+)\)', text): assert (path.parent/link).is_file(), f'{path.name} shows {link}, which is not there'
        for body in re.findall(r'</summary>(.*?)</details>', text, re.S): assert body.startswith('\n\n') and body.count('```')%2==0, body[:80]
