"""The pixel encodings of sensor_msgs/Image and how each becomes RGB.

Names and meanings are those of sensor_msgs/image_encodings.hpp. Choices where that file is silent:
types without a colour order (8UC3, 8UC4, 16UC3, 16UC4) hold OpenCV's order, blue first; 16-bit
samples keep their high byte (`>> 8`); YUV is BT.601 with studio swing, as OpenCV converts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2

RGB = (0, 1, 2)
BGR = (2, 1, 0)
MONO = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way of storing pixels.

    `samples`: per pixel in a row of `step` bytes. `sample_bytes`: 1 or 2. `channels`: which samples
    are red, green and blue. `conversion`: an OpenCV code to RGB, or None where the samples are
    colours already. `half_planes`: rows of colour at half height follow the rows of luma.
    `multiple`: width and height must be multiples of these. `minimum`: least width and height.
    """

    samples: int
    sample_bytes: int = 1
    channels: tuple[int, int, int] = RGB
    conversion: int | None = None
    half_planes: bool = False
    multiple: tuple[int, int] = (1, 1)
    minimum: int = 1

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes that one pixel takes in a row; `step` is at least this times the width."""
        return self.samples * self.sample_bytes

    def rows(self, height: int) -> int:
        """Rows of `step` bytes that an image of this height holds."""
        return height + height // 2 if self.half_planes else height


def _bayer(conversion: int, sample_bytes: int) -> Encoding:
    return Encoding(1, sample_bytes, MONO, conversion, minimum=4)


UYVY = Encoding(2, conversion=cv2.COLOR_YUV2RGB_UYVY, multiple=(2, 1))
YUYV = Encoding(2, conversion=cv2.COLOR_YUV2RGB_YUY2, multiple=(2, 1))

# OpenCV's older names BayerBG.. are shifted by one row and column against the mosaic's first
# pixels, which ROS names; the four-letter aliases used here are not.
MOSAICS = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}

ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3),
    "bgr8": Encoding(3, channels=BGR),
    "rgba8": Encoding(4),
    "bgra8": Encoding(4, channels=BGR),
    "mono8": Encoding(1, channels=MONO),
    "8UC1": Encoding(1, channels=MONO),
    "8UC3": Encoding(3, channels=BGR),
    "8UC4": Encoding(4, channels=BGR),
    "rgb16": Encoding(3, 2),
    "bgr16": Encoding(3, 2, BGR),
    "rgba16": Encoding(4, 2),
    "bgra16": Encoding(4, 2, BGR),
    "mono16": Encoding(1, 2, MONO),
    "16UC1": Encoding(1, 2, MONO),
    "16UC3": Encoding(3, 2, BGR),
    "16UC4": Encoding(4, 2, BGR),
    **{f"bayer_{name}8": _bayer(code, 1) for name, code in MOSAICS.items()},
    **{f"bayer_{name}16": _bayer(code, 2) for name, code in MOSAICS.items()},
    "yuv422": UYVY,
    "uyvy": UYVY,
    "yuv422_yuy2": YUYV,
    "yuyv": YUYV,
    "nv12": Encoding(1, conversion=cv2.COLOR_YUV2RGB_NV12, half_planes=True, multiple=(2, 2)),
    "nv21": Encoding(1, conversion=cv2.COLOR_YUV2RGB_NV21, half_planes=True, multiple=(2, 2)),
}
