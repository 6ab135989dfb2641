"The house stays a house: imports go down, nothing private crosses rooms, every idea has one owner, rooms stay small"
import ast, json, re
from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

root = Path(__file__).resolve().parents[1]
library = root/'syncgaussian'
ROOM_LINES, HALF_LINES, CELL_LINES, COLUMNS, CELLS = 450, 220, 60, 120, 110

def source(cell): return ''.join(cell['source'])
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
notebooks = sorted((root/'nbs').glob('[0-9]*.ipynb'))

def room_of(path):
    "The dotted name of the module that a notebook exports to"
    return next(re.search(r'default_exp (\S+)', source(c))[1] for c in cells(path) if '#| default_exp' in source(c))

ROOMS = {room_of(p):p for p in notebooks} # room -> notebook
def number(room): return int(re.match(r'\d+', ROOMS[room].name)[0])
def module(room): return library/(room.replace('.', '/')+'.py')
def tree(path): return ast.parse(path.read_text(encoding='utf-8'))

def absolute(node, package):
    "The module that an import statement names, without the library's own name; None where it is somebody else's"
    if node.level: return '.'.join([*package[:len(package)-node.level+1], *filter(None, [node.module])])
    return node.module.partition('.')[2] if node.module and node.module.split('.')[0]=='syncgaussian' else None

def imports(path, package):
    "(room or folder, name, statement) of everything that a file imports from this library, late imports too"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for a in node.names:
                if a.name.startswith('syncgaussian.'): yield a.name.partition('.')[2], None, node
        elif isinstance(node, ast.ImportFrom) and (target := absolute(node, package)) is not None:
            for a in node.names: yield target, a.name, node

def face_targets(folder):
    "What a folder's face names: name -> room"
    found = {}
    for target,name,_ in imports(library/folder/'__init__.py', folder.split('.')): found[name] = target
    return found

def rooms_behind(target, name):
    "The rooms that an import really reads: a room itself, or what a face fetches a name from"
    if target in ROOMS: return [target]
    if f'{target}.{name}' in ROOMS: return [f'{target}.{name}']
    if target and (library/target/'__init__.py').exists(): return [face_targets(target)[name]] if name in face_targets(target) else []
    return []

def needs(room):
    "Rooms that a room imports"
    package = room.split('.')[:-1]
    return {r for target,name,_ in imports(module(room), package) for r in rooms_behind(target, name)} - {room}

@pytest.mark.parametrize('room', ROOMS)
def test_imports_go_down(room):
    "A room needs rooms of smaller numbers, or of its own"
    up = sorted(r for r in needs(room) if number(r)>number(room))
    assert not up, f'{ROOMS[room].name} is lower than {", ".join(ROOMS[r].name for r in up)}'

def test_no_circle():
    above, done = {r:needs(r) for r in ROOMS}, set()
    while free := {r for r,n in above.items() if r not in done and n<=done}: done |= free
    assert done==set(ROOMS), f'these rooms need each other: {sorted(set(ROOMS)-done)}'

def test_boards_are_nobodys_floor():
    "A board may need everything, and only boards need boards"
    assert not {(r, n) for r in ROOMS for n in needs(r) if n.startswith('boards.') and not r.startswith('boards.')}

@pytest.mark.parametrize('room', ROOMS)
def test_own_imports_stand_at_the_top(room):
    "What is late hides a circle; only the command line waits, so that its help is quick"
    if room=='cli': pytest.skip('the command line imports late, on purpose')
    t = tree(module(room))
    late = [n.lineno for n in ast.walk(t) if isinstance(n, ast.ImportFrom) and n not in t.body and absolute(n, room.split('.')[:-1]) is not None]
    assert not late, f'{module(room).name}: lines {late}'

def python_files():
    yield from ((module(r), r.split('.')[:-1]) for r in ROOMS)
    for folder in ('tests', 'benchmarks', 'tools'): yield from ((p, []) for p in sorted((root/folder).glob('*.py')))

@pytest.mark.parametrize('path,package', list(python_files()), ids=lambda x: x.stem if isinstance(x, Path) else '')
def test_no_private_name_crosses(path, package):
    private = [name for target,name,_ in imports(path, package) if name and name.startswith('_') and not name.startswith('__')]
    aliases = {a.asname or a.name for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and absolute(n, package) is not None
               for a in n.names if rooms_behind(absolute(n, package), a.name)==[f'{absolute(n, package)}.{a.name}'.lstrip('.')]}
    private += [f'{n.value.id}.{n.attr}' for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
                and n.value.id in aliases and n.attr.startswith('_') and not n.attr.startswith('__')]
    assert not private, f'{path.name} reaches for {private}'

def test_no_private_name_crosses_lessons():
    "A lesson that needs another room's private name says that the name deserves to be public"
    found = {(p.name, name) for p in notebooks for c in cells(p) if c['cell_type']=='code'
             for name in re.findall(r'from syncgaussian[.\w]* import .*?\b(_[a-z]\w*)', source(c))}
    assert not found

def public_names(room):
    "Functions, classes and constants of a room that a reader may call; methods that grow a class do not count"
    names = []
    for n in tree(module(room)).body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            if not any('patch' in ast.unparse(d) for d in n.decorator_list): names.append(n.name)
        elif isinstance(n, ast.Assign): names += [x.id for t in n.targets for x in ast.walk(t) if isinstance(x, ast.Name)]
    return {n for n in names if not n.startswith('_')}

def test_one_owner():
    owners = defaultdict(list)
    for r in ROOMS:
        for n in public_names(r): owners[n].append(r)
    assert not {n:o for n,o in owners.items() if len(o)>1}

def test_no_room_bears_the_name_of_a_function():
    "`syncgaussian.train` must stay the function: a module of that name would take its place once it is imported"
    main = tree(library/'__init__.py')
    lazy = next(n.value for n in main.body if isinstance(n, ast.Assign) and n.targets[0].id=='_lazy')
    assert not {k.arg for k in lazy.keywords} & {p.stem for p in library.iterdir()}

def lines(room):
    "A module without what nbdev puts in"
    text = module(room).read_text(encoding='utf-8').splitlines()
    return [l for l in text if not l.startswith(('# %%', '# AUTOGENERATED', '__all__'))]

def test_half_of_the_rooms_are_smaller(): assert median(len(lines(r)) for r in ROOMS)<=HALF_LINES

@pytest.mark.parametrize('room', ROOMS)
def test_rooms_are_small(room):
    code = lines(room)
    assert len(code)<=ROOM_LINES
    wide = [l for l in code if len(l)>COLUMNS and not one_sentence_error(l)]
    assert not wide, '\n'.join(wide)

def one_sentence_error(line):
    "An error is one sentence in one string, however long"
    return bool(re.search(r'\braise \w+\(|\w+\.note\(|warnings\.warn\(|^\s*f["\']', line))

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_cells_are_small(path):
    all_cells = cells(path)
    assert len(all_cells)<=CELLS
    for c in all_cells:
        if c['cell_type']=='code' and source(c).startswith('#| export'): assert len(source(c).splitlines())<=CELL_LINES, c['id']

@pytest.mark.parametrize('room', ROOMS)
def test_one_statement_a_line(room):
    "No statements joined by semicolons"
    joined = set()
    for node in ast.walk(tree(module(room))):
        for body in (getattr(node, f, None) for f in ('body', 'orelse', 'finalbody')):
            if isinstance(body, list): joined |= {b.lineno for a,b in zip(body, body[1:]) if a.end_lineno==b.lineno}
    assert not joined, f'{module(room).name}: lines {sorted(joined)}'

@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_no_lesson_reads_ahead(path):
    "No notebook imports from a later one"
    own = number(room_of(path))
    ahead = set()
    for c in cells(path):
        if c['cell_type']!='code': continue
        for target,names in re.findall(r'^\s*from syncgaussian\.([\w.]+) import (.+)', source(c), re.M):
            for name in re.findall(r'\w+', names):
                ahead |= {r for r in rooms_behind(target, name) if number(r)>own}
    assert not ahead

@pytest.mark.parametrize('room', ROOMS)
def test_number_is_the_folder(room):
    "Rooms of one folder share their notebooks' number; boards stand where they are shown"
    folder = room.partition('.')[0]
    if '.' not in room or folder=='boards': return
    assert len({number(r) for r in ROOMS if r.startswith(folder+'.')})==1

def test_faces_are_short():
    for path in library.glob('*/__init__.py'): assert len(path.read_text(encoding='utf-8').splitlines())<=15, path
    for folder in {r.partition('.')[0] for r in ROOMS if '.' in r}: assert (library/folder/'__init__.py').exists()
