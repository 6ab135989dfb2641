"Speech in, a film with sound out, and its scores (notebooks 11 to 11b)"
from .drive import ARTICULATION, Drive, SynthesisError, drive_with_clip, drive_with_speech, render_frames
from .film import stream, synthesize
from .held_out import evaluate, evaluate_speech
