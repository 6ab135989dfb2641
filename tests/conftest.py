"What every test shares: few threads, fixed seeds, the GPU marker, the optional real clips beside the checkout"
import os, random, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parents[1]
for k in 'OMP_NUM_THREADS','MKL_NUM_THREADS','OPENBLAS_NUM_THREADS','NUMEXPR_NUM_THREADS':
    os.environ.setdefault(k, str(min(2, os.cpu_count() or 1)))
os.environ.setdefault('GOMP_SPINCOUNT', '0') # two busy-waiting threads on a shared core wait for each other
os.environ.setdefault('MPLBACKEND', 'agg')
os.environ['IN_TEST'] = '1'

def pytest_configure(config):
    config.addinivalue_line('markers', 'gpu: needs a CUDA device; skipped where there is none')
    config.addinivalue_line('markers', 'slow: takes minutes; run with SYNCGAUSSIAN_SLOW=1')

def pytest_collection_modifyitems(items):
    if any('gpu' in i.keywords for i in items):
        import torch
        no_gpu = pytest.mark.skip(reason='no CUDA device')
        for i in items:
            if 'gpu' in i.keywords and not torch.cuda.is_available(): i.add_marker(no_gpu)
    if not os.environ.get('SYNCGAUSSIAN_SLOW'):
        for i in items:
            if 'slow' in i.keywords: i.add_marker(pytest.mark.skip(reason='slow; set SYNCGAUSSIAN_SLOW=1'))

@pytest.fixture(autouse=True)
def seeds():
    "The same random numbers in every test, in whatever order they run"
    import numpy as np
    random.seed(0); np.random.seed(0)
    if 'torch' in sys.modules: sys.modules['torch'].manual_seed(0)

@pytest.fixture
def course_folder():
    "../out, which notebooks share, for one test at a time: files run side by side with `pytest -n 2 --dist loadfile`"
    try: import fcntl
    except ImportError: # no such lock on Windows; run the files one after the other there
        yield
        return
    (root/'out').mkdir(exist_ok=True)
    with open(root/'out/.tests.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

@pytest.fixture(scope='session')
def project(): return root

@pytest.fixture(scope='session')
def shared():
    "Real clips and models beside the checkout, where a developer has them"
    path = root.parent/'shared'/'assets'
    if not path.is_dir(): pytest.skip('no ../shared/assets beside this checkout: real clips are not tested')
    return path
