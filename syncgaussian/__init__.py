"SyncGaussian: one talking video in, a talking head of 3D Gaussians out"
__version__ = "0.1.0"

_lazy = dict(prepare='preparation', train='training', load_head='training', synthesize='synthesis', evaluate='synthesis', demo='sample_run',
             Clip='clip', SyncGaussianConfig='config', course_config='config', paper_config='config', fetch_asset='assets',
             run_ablations='ablations', SyncGaussianError='files')

def __getattr__(name):
    "The main names, imported when they are first used"
    if name not in _lazy: raise AttributeError(f"module 'syncgaussian' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f'.{_lazy[name]}', __name__), name)

def __dir__(): return [*globals(), *_lazy]
