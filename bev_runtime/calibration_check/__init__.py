"""Is a camera where its calibration says? Measured from LiDAR points and one or more images.

Two cues, over a grid of small rotations about all three axes of the camera: depth jumps along the
LiDAR's scan lines should lie on image edges that cross the line (and smooth surfaces should not),
and so should changes of reflectance within a surface, such as lane markings. Each fails on some
scenes; the place where both agree is an accident in 2 of 113 mismatched pairs.

After J. Levinson and S. Thrun, "Automatic Online Calibration of Cameras and Lasers" (RSS 2013);
reflectance and the smooth counter-examples are added.
"""

from bev_runtime.calibration_check.score import (
    CameraScore,
    accumulate,
    in_camera_frame,
    score_camera,
)
from bev_runtime.calibration_check.verdict import Verdict, judge, most_suspicious_first

__all__ = [
    "CameraScore",
    "Verdict",
    "accumulate",
    "in_camera_frame",
    "judge",
    "most_suspicious_first",
    "score_camera",
]
