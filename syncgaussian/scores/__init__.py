"Losses and scores (paper, Eq. 7 to 9 and 4.2; notebooks 09 to 09b)"
from .metrics import MetricError, landmark_distance, lpips_distance, psnr, score_frames, ssim
from .syncnet import SyncNetError, load_syncnet
from .video import EvaluationError, evaluate_frames, score_video
