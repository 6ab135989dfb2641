"Make README.md from nbs/index.ipynb: python tools/readme.py [--check]"
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parents[1]
index,readme,pictures = root/'nbs/index.ipynb',root/'README.md','data_samples/results'

def visible(cell):
    "A code cell without its directives, or None where the reader is not meant to see it"
    directives = re.findall(r'^#\|\s*(\S+)', cell.source, re.M)
    if cell.cell_type!='code': return cell
    if {'hide','default_exp','export','exporti'} & set(directives): return None
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
    if 'echo:' in directives: cell.source = ''
    cell.outputs = [o for o in cell.outputs if o.output_type!='stream' or o.name=='stdout']
    return cell

def convert():
    "README.md's text, and the pictures that it shows: path to bytes"
    nb = nbformat.read(index, as_version=4)
    nb.metadata.language_info = {'name': 'python'}
    nb.cells = [c for c in map(visible, nb.cells) if c is not None]
    template = pictures+'/index_{cell_index}_{index}{extension}'
    config = Config({'ExtractOutputPreprocessor': {'output_filename_template': template}})
    text,resources = MarkdownExporter(config=config).from_notebook_node(nb)
    text = re.sub(r'```python\s*```\n?', '', text).replace('](../', '](').replace('src="../', 'src="')
    text = re.sub(r'\]\((\w+)\.ipynb', r'](nbs/\1.ipynb', text)
    note = '<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook. -->\n\n'
    return note+re.sub(r'\n{3,}', '\n\n', text).strip()+'\n',resources.get('outputs', {})

def differences(text, files):
    "What in the tree is not what the notebook says"
    want = {'README.md': text.encode(), **files}
    return [p for p,b in want.items() if not (root/p).exists() or (root/p).read_bytes()!=b]

if __name__=='__main__':
    text,files = convert()
    if '--check' in sys.argv:
        wrong = [f'{p} is not what nbs/index.ipynb gives: run make readme' for p in differences(text, files)]
        sys.exit('\n'.join(wrong) or 0)
    (root/pictures).mkdir(parents=True, exist_ok=True)
    for old in (root/pictures).glob('index_*.*'): old.unlink()
    for path,data in files.items(): (root/path).write_bytes(data)
    readme.write_text(text, encoding='utf-8')
