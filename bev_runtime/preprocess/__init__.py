"""From decoded ROS messages to network-ready pixels and points.

Converting a message only validates it; pixels are decoded when a frame is used. Whatever is wrong
with a message raises `SampleRejected` with a reason that is counted.
"""

from bev_runtime.preprocess.decoder import Decoded, ImageDecoder, decode_rgb
from bev_runtime.preprocess.images import compressed_image_from_message, image_from_message
from bev_runtime.preprocess.network_input import NetworkInput
from bev_runtime.preprocess.points import cloud_from_message

__all__ = [
    "Decoded",
    "ImageDecoder",
    "NetworkInput",
    "cloud_from_message",
    "compressed_image_from_message",
    "decode_rgb",
    "image_from_message",
]
