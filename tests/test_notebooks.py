"One test a notebook: it runs from top to bottom, in a process of its own, without its `slow` and `gpu` cells"
import json, re, subprocess, sys
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).resolve().parents[1]
notebooks = sorted(p for p in (root/'nbs').glob('*.ipynb') if p.name[0] not in '._')
SECONDS = 600 # Far above the 90 s that a notebook may take on two idle cores: a busy machine is no failure
RUN = """import sys
from nbdev.test import test_nb
ok,_ = test_nb(sys.argv[1], skip_flags=['slow','gpu'], basepath=sys.argv[2], do_print=False)
sys.exit(not ok)"""

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook(path, course_folder):
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

def markdown(path): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='markdown']

def anchors(path):
    "What JupyterLab calls the headings of a notebook"
    prose = '\n'.join(re.sub(r'```.*?```', '', cell, flags=re.S) for cell in markdown(path))
    return {h.strip().replace(' ', '-') for h in re.findall(r'^#+ (.*)$', prose, re.M)}

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    "Links to notebooks, and to headings in them"
    for name,anchor in re.findall(r'\]\((\w+\.ipynb)?(?:#([^)\s]+))?\)', '\n'.join(markdown(path))):
        target = path.parent/name if name else path
        assert target.exists(), f'{path.name}: {name}'
        assert not anchor or unquote(anchor) in anchors(target), f'{path.name}: no heading {anchor} in {target.name}'

def solutions(path):
    "The code blocks of a notebook's folded solutions"
    folded = re.findall(r'<details>(.*?)</details>', '\n'.join(markdown(path)), re.S)
    return [block for solution in folded for block in re.findall(r'```python\n(.*?)```', solution, re.S)]

@pytest.mark.parametrize('path', [p for p in notebooks if any('<details>' in m for m in markdown(p))], ids=lambda p: p.stem)
def test_solutions_are_folded(path):
    "As many solutions as exercises, with the empty lines that JupyterLab needs to render what is inside"
    cells = markdown(path)
    cells = cells[next(i for i,m in enumerate(cells) if m.startswith('## Exercises')):]
    text = '\n\n'.join(cells)
    asked = len(re.findall(r'^\d+\. ', re.sub(r'<details>.*?</details>', '', text, flags=re.S), re.M))
    assert asked==text.count('<details>')==text.count('</details>')==len(re.findall(r'<details><summary>Solution \d+: .+</summary>\n\n', text))
    for block in re.findall(r'(\n*)```python\n.*?```(\n*)', text, re.S): assert all(len(gap)>=2 for gap in block)

@pytest.mark.slow
@pytest.mark.parametrize('path', [p for p in notebooks if solutions(p)], ids=lambda p: p.stem)
def test_solutions_run(path, course_folder):
    "Every solution runs after its notebook"
    d = json.loads(path.read_text(encoding='utf-8'))
    d['cells'] += [dict(cell_type='code', id=f'solution-{i}', metadata={}, execution_count=None, outputs=[], source=s) for i,s in enumerate(solutions(path))]
    copy = path.with_name(f'.solutions_{path.name}')
    try:
        copy.write_text(json.dumps(d))
        r = subprocess.run([sys.executable, '-W', 'ignore', '-c', RUN, copy, root], cwd=path.parent, capture_output=True, text=True, timeout=2*SECONDS)
    finally: copy.unlink()
    assert r.returncode==0, f'{path.name}\n{r.stdout[-1500:]}\n{r.stderr[-6000:]}'

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_pictures_are_there(path):
    "Files that the prose shows"
    for link in re.findall(r'!\[[^]]*\]\(([^)#:]+)\)', '\n'.join(markdown(path))): assert (path.parent/link).is_file(), f'{path.name} shows {link}, which is not there'
