"Interactive boards; each needs `[lab]`, imports what it likes, and is imported by notebooks only"
from ..show import widgets # First: where the lab is missing, it says which command brings it

_boards = dict(PoseExplorer='pose', encoder_board='encoder', PlaneExplorer='planes', LipSyncExplorer='lip_sync',
               SpeakNow='talk', head_viewer='talk', AblationBoard='ablations', UserStudy='user_study')

def __getattr__(name):
    "A board is imported when it is first used"
    if name not in _boards: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'.{_boards[name]}', __name__), name)
