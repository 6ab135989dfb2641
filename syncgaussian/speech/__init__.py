"What speech says about text and about lips (paper, 3.2; notebooks 06 to 06b)"
from .sound import SpeechError, check_speech, pauses
from .text import SpeechFeatures, load_features, load_speech_model
from .sync_pair import AudioVisualEncoder, LipEncoder, ave_features, load_audio_visual_encoder, load_sync_pair, train_audio_visual_encoder
