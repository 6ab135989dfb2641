"Stable head poses (paper, 3.3; notebooks 05 to 05d)"
from .geometry import PoseError, canonical_face, pose_jitter, project
from .rough import search_focal_length, track_head_motion
from .keypoints import track_keypoints
from .stable import HeadPose, bundle_adjust, estimate_head_pose, has_pose, load_pose, save_pose
