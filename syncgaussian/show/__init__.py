"Pictures everywhere, widgets where `[lab]` is installed (notebooks 03 to 03b)"
from .pictures import image_grid, plot_curves, subplots

_widgets = dict(SplatViewer='viewer', FramePlayer='widgets', VideoPlayer='widgets', SoundInput='widgets')

def __getattr__(name):
    "Widgets are imported when they are first used"
    if name not in _widgets: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'.{_widgets[name]}', __name__), name)
