"How the sample clip is made: a portrait in layers that speaks (appendix, notebooks 14 to 14b)"
from .puppet import make_sample_clip
