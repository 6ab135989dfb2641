"Three stages of training (paper, 3.5; notebooks 10 to 10c)"
from .data import TrainingData, TrainingError
from .head import TalkingHead, init_head, load_head, pick_device, save_head
from .stages import Trainer, train
