"A film becomes a clip folder: frames, sound, landmarks, masks, backdrop (notebooks 04 to 04e)"
from .media import ClipError, load_sound, read_frames, read_video, write_video
from .landmarks import BLENDSHAPES, EXPRESSION, detect_landmarks, lip_gap
from .masks import LABELS, parse_face
from .folder import Clip, Manifest, backdrop_video
from .steps import prepare_clip
