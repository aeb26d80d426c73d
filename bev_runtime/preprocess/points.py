"""sensor_msgs/PointCloud2 of any layout to points x y z intensity.

Fields are found by name, offset and datatype as the message declares them. A cloud is copied once,
into the array that the runtime keeps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import SampleRejected
from bev_runtime.types import PointCloud

log = logging.getLogger(__name__)

MAX_RANGE_M = 300.0
"""Longest range of automotive LiDARs on the market; what lies beyond is noise or a fill value."""
MAX_POINTS = 2_000_000
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""numpy types by the constants of sensor_msgs/PointField."""
INTENSITY_NAMES = ("intensity", "i", "intensities", "reflectivity", "reflectance")

BLOCK = np.dtype("V16")
"""x y z intensity as float32 beside one another, moved as one: 20 us for 35,000 points of 18 bytes,
where four columns of unaligned floats take 500."""

Field = tuple[str, int, int, int]
"""name, offset in bytes, datatype, count"""


@dataclass(frozen=True, slots=True)
class _Layout:
    """`columns`: a structured dtype of one point. `targets`: (field, column of the result).
    `is_block`: the only field of `columns` is a BLOCK, and there are no targets.
    """

    columns: np.dtype[np.void]
    targets: tuple[tuple[str, int], ...]
    has_intensity: bool
    is_block: bool


def cloud_from_message(
    name: str,
    stamp_ns: int,
    msg: Any,  # noqa: ANN401
    *,
    max_range: float = MAX_RANGE_M,
    max_points: int = MAX_POINTS,
) -> PointCloud:
    """Reads a sensor_msgs/PointCloud2.

    Fields x, y, z may have any numeric datatype. Intensity is the first present of `intensity`,
    `i`, `intensities`, `reflectivity`, `reflectance`, unscaled; without one it is 0, which is
    logged once per sensor. Rows may be padded and organised clouds are flattened. `is_dense` is not
    trusted. An empty cloud is valid, and so is one of which no point is left.

    Args:
        name: the LiDAR.
        stamp_ns: its stamp.
        msg: the decoded message; `data` is uint8. Bytes after the last row are ignored.
        max_range: metres from the sensor.
        max_points: a larger cloud is thinned evenly.

    Returns:
        The cloud; `removed` counts by reason: `nonfinite` (a NaN or an infinity in x, y, z or
        intensity), `out_of_range` and `over_limit`. Reasons without a point are left out.

    Raises:
        SampleRejected: `missing_field`, `unsupported_datatype`, `bad_point_step`, `bad_row_step` or
            `short_data`.
    """
    width, height = int(msg.width), int(msg.height)
    total = width * height
    if total == 0:
        return PointCloud(name, stamp_ns, np.empty((0, 4), np.float32))
    fields = tuple((f.name, int(f.offset), int(f.datatype), int(f.count)) for f in msg.fields)
    point_step, row_step = int(msg.point_step), int(msg.row_step)
    layout = _layout(name, fields, point_step, bool(msg.is_bigendian))
    data: NDArray[np.uint8] = np.ascontiguousarray(msg.data, np.uint8)
    _check_steps(name, (width, height), (point_step, row_step), data.size)
    if row_step == width * point_step:
        width, height = total, 1
    records = np.ndarray((height, width), layout.columns, data, strides=(row_step, point_step))
    records = _thinned(records, max_points)
    points = np.empty((records.size, 4), np.float32)
    if layout.is_block:
        points.view(BLOCK).reshape(records.shape)[...] = records["block"]
    image = points.reshape(*records.shape, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite
        for source, column in layout.targets:
            image[..., column] = records[source]
    if not layout.has_intensity:
        points[:, 3] = 0
    removed = {"over_limit": total - len(points)} if len(points) < total else {}
    points = _usable(points, max_range, removed)
    return PointCloud(name, stamp_ns, points, removed)


@lru_cache(maxsize=64)
def _layout(sensor: str, fields: tuple[Field, ...], point_step: int, is_bigendian: bool) -> _Layout:
    """Reads the declaration of a layout; once per sensor, because it hardly ever changes."""
    declared = {f[0]: f for f in reversed(fields)}
    missing = [axis for axis in "xyz" if axis not in declared]
    if missing:
        raise SampleRejected(
            "missing_field",
            f"{sensor}: cloud has no field {', '.join(missing)}, only "
            f"{', '.join(declared)[:200] or 'none'}: x, y and z are needed",
        )
    intensity = next((candidate for candidate in INTENSITY_NAMES if candidate in declared), None)
    if intensity is None:
        log.warning(
            "%s: cloud has no intensity (none of %s among %s); 0 is used for every point",
            sensor,
            ", ".join(INTENSITY_NAMES),
            ", ".join(declared)[:200],
        )
    wanted = ["x", "y", "z"] if intensity is None else ["x", "y", "z", intensity]
    formats = []
    for field in wanted:
        _, offset, datatype, count = declared[field]
        if datatype not in DATATYPES or count > 1:
            raise SampleRejected(
                "unsupported_datatype",
                f"{sensor}: field {field} has datatype {datatype} and count {count}, expected a "
                f"datatype in 1..8 and count 1: check the driver's PointField",
            )
        dtype = np.dtype((">" if is_bigendian else "<") + DATATYPES[datatype])
        if offset + dtype.itemsize > point_step:
            raise SampleRejected(
                "bad_point_step",
                f"{sensor}: field {field} takes bytes {offset} to {offset + dtype.itemsize} of a "
                f"point, but point_step is {point_step}: check the driver's layout",
            )
        formats.append(dtype)
    offsets = [declared[field][1] for field in wanted]
    beside = [offsets[0] + 4 * column for column in range(4)]
    is_block = offsets == beside and set(formats) == {np.dtype(np.float32)}
    if is_block:
        wanted, formats, offsets = ["block"], [BLOCK], offsets[:1]
    columns = np.dtype(
        {"names": wanted, "formats": formats, "offsets": offsets, "itemsize": point_step}
    )
    targets = () if is_block else tuple((field, column) for column, field in enumerate(wanted))
    return _Layout(columns, targets, intensity is not None, is_block)


def _check_steps(name: str, size: tuple[int, int], steps: tuple[int, int], available: int) -> None:
    (width, height), (point_step, row_step) = size, steps
    if row_step < width * point_step:
        raise SampleRejected(
            "bad_row_step",
            f"{name}: row_step is {row_step} bytes, expected at least {width * point_step} for "
            f"{width} points of {point_step}: check the driver's layout",
        )
    if available < height * row_step:
        raise SampleRejected(
            "short_data",
            f"{name}: {available} bytes of points, expected {height * row_step} for {height} rows "
            f"of {row_step}: the message was cut off or its header is wrong",
        )


def _thinned(records: NDArray[np.void], max_points: int) -> NDArray[np.void]:
    """A view of at most `max_points` records [rows, columns], taken at even distances."""
    if records.size <= max_points:
        return records
    rows, columns = records.shape
    every = -(-records.size // max_points)
    thinned: NDArray[np.void] = records[::every] if rows > columns else records[:, ::every]
    return thinned


def _usable(
    points: NDArray[np.float32], max_range: float, removed: dict[str, int]
) -> NDArray[np.float32]:
    """Points float32 [N, 4] that are finite and near enough; counts the others in `removed`."""
    x, y, z, intensity = points.T
    with np.errstate(over="ignore", invalid="ignore"):  # 1e30 squared is infinite: out of range
        near = x * x + y * y + z * z <= np.float32(max_range) ** 2
    keep = near & np.isfinite(intensity)
    kept = int(np.count_nonzero(keep))
    if kept == len(points):
        return points
    finite = int(np.count_nonzero(np.isfinite(points).all(axis=1)))
    for reason, count in (("nonfinite", len(points) - finite), ("out_of_range", finite - kept)):
        if count:
            removed[reason] = count
    usable: NDArray[np.float32] = points[keep]
    return usable
