"""Real-time bird's-eye-view perception: cameras and LiDAR in, maps and detections out, honest when
sensors die.
"""

__version__ = "0.3.0"
