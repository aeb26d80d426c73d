"""Faults in the content of a sensor_msgs/PointCloud2: points that are no longer there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess.points import DATATYPES

Bool = NDArray[np.bool_]


def keep_sector(msg: Any, deg: float, yaw: float) -> Any:  # noqa: ANN401
    """Keeps the points within `deg` degrees of azimuth about `yaw`, both in the sensor's frame.

    Args:
        msg: a sensor_msgs/PointCloud2.
        deg: width of the sector, degrees.
        yaw: direction of its middle, degrees counter-clockwise from x.

    Returns:
        A new message, without padding between rows.

    Raises:
        SampleRejected: `missing_field` or `short_data`; the message is no usable cloud.
    """
    azimuth = np.degrees(np.arctan2(_field(msg, "y"), _field(msg, "x")))
    with np.errstate(invalid="ignore"):
        return kept(msg, np.abs((azimuth - yaw + 180.0) % 360.0 - 180.0) <= deg / 2)


def keep_beams(msg: Any, keep: int) -> Any:  # noqa: ANN401
    """Keeps `keep` of the values of the field `ring`, evenly spaced among those present.

    Raises:
        SampleRejected: as for `keep_sector`.
    """
    ring = _field(msg, "ring")
    present = np.unique(ring)
    count = min(keep, len(present))
    middle = (np.arange(count) + 0.5) * (len(present) / max(count, 1))
    return kept(msg, np.isin(ring, present[middle.astype(np.intp)]))


def drop_points(msg: Any, p: float, rng: np.random.Generator) -> Any:  # noqa: ANN401
    """Removes each point with the probability `p`.

    Raises:
        SampleRejected: as for `keep_sector`.
    """
    return kept(msg, rng.random(int(msg.width) * int(msg.height)) >= p)


def kept(msg: Any, mask: Bool) -> Any:  # noqa: ANN401
    """The message with the points of a mask bool [height * width] only.

    Raises:
        SampleRejected: `short_data`.
    """
    points = _points(msg).reshape(-1)[mask]
    return replace(
        msg,
        height=1,
        width=len(points),
        row_step=len(points) * int(msg.point_step),
        data=points.view(np.uint8),
    )


def _points(msg: Any) -> NDArray[np.void]:  # noqa: ANN401
    """Whole points as records [height, width], without the padding between rows."""
    width, height = int(msg.width), int(msg.height)
    point_step, row_step = int(msg.point_step), int(msg.row_step)
    data = np.ascontiguousarray(msg.data, np.uint8)
    if point_step < 1 or row_step < width * point_step or data.size < height * row_step:
        raise SampleRejected(
            "short_data",
            f"cloud of {height} rows of {width} points of {point_step} bytes has row_step "
            f"{row_step} and {data.size} bytes: it cannot be edited",
        )
    record = np.dtype((np.void, point_step))
    records = np.ndarray((height, width), record, data, strides=(row_step, point_step))
    points: NDArray[np.void] = records.copy()
    return points


def _field(msg: Any, name: str) -> NDArray[Any]:  # noqa: ANN401
    """One field of all points, [height * width]."""
    declared = next((field for field in msg.fields if field.name == name), None)
    code = DATATYPES.get(int(declared.datatype)) if declared is not None else None
    if declared is None or code is None:
        raise SampleRejected(
            "missing_field", f"cloud has no numeric field '{name}', which the fault needs"
        )
    dtype = np.dtype((">" if msg.is_bigendian else "<") + code)
    if int(declared.offset) + dtype.itemsize > int(msg.point_step):
        raise SampleRejected("missing_field", f"field '{name}' is beyond the point")
    layout = np.dtype(
        {
            "names": [name],
            "formats": [dtype],
            "offsets": [int(declared.offset)],
            "itemsize": int(msg.point_step),
        }
    )
    return _points(msg).reshape(-1).view(layout)[name]
