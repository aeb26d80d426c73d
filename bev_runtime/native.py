"""The native CPU kernels, loaded with ctypes (which releases the GIL during a call).

The library is built by `setup.py` from `plugins/` into `bev_runtime/_native/`. Without it
everything works through numpy, slower. Each function is documented in
`plugins/include/bev_runtime/kernels.h`.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np

ABI_VERSION = 7
MAX_CAMERAS = 64
LIBRARY = Path(__file__).parent / "_native" / "libbev_runtime_kernels.so"
LENSES = {"none": 0, "plumb_bob": 1, "rational_polynomial": 1, "equidistant": 2}
ERRORS = {
    -1: "an argument is out of range",
    -2: "the table has no room for this geometry: make it with make_table() of the view transform",
    -3: "an index would not fit into int32: use fewer cameras, cells or depth bins",
}

CAMERA = np.dtype(
    [
        ("camera_from_ref", np.float64, (3, 4)),
        ("intrinsics", np.float64, (3, 3)),
        ("distortion", np.float64, (8,)),
        ("max_radius", np.float64),
        ("lens", np.int64),
    ]
)
"""`struct BevCamera`."""


class Table(ctypes.Structure):
    """`struct BevTable`."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("ranks_depth", ctypes.c_void_p),
        ("ranks_feat", ctypes.c_void_p),
        ("ranks_bev", ctypes.c_void_p),
        ("interval_starts", ctypes.c_void_p),
        ("interval_lengths", ctypes.c_void_p),
        ("interval_cells", ctypes.c_void_p),
        ("point_capacity", ctypes.c_int64),
        ("interval_capacity", ctypes.c_int64),
        ("num_points", ctypes.c_int64),
        ("num_intervals", ctypes.c_int64),
    )


class SplatGrid(ctypes.Structure):
    """`struct BevSplatGrid`."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("x_min", "y_min", "cell", "z_min", "z_max")),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class PillarGrid(ctypes.Structure):
    """`struct BevPillarGrid`."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("x_min", "y_min", "cell", "z_min", "slice_height")),
        ("intensity_scale", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "slices")),
    )


class ImageTaps(ctypes.Structure):
    """`struct BevImageTaps`."""

    _fields_ = (("low", ctypes.c_void_p), ("weights", ctypes.c_void_p))


class Image(ctypes.Structure):
    """`struct BevImage`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("step", "width", "height", "samples")),
        ("channels", ctypes.c_int64 * 3),
        ("columns", ctypes.POINTER(ImageTaps)),
        ("rows", ctypes.POINTER(ImageTaps)),
    )


_POINTER, _INT, _DOUBLE, _TABLE = (
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_double,
    ctypes.POINTER(Table),
)
_SIGNATURES = {
    "bev_limit_variant": (ctypes.c_char_p,),
    "bev_pool_f32": (_POINTER, _POINTER, _INT, _TABLE, _POINTER, _POINTER, _INT, _INT),
    "bev_pool_f16": (_POINTER, _POINTER, _INT, _TABLE, _POINTER, _POINTER, _INT, _INT),
    "bev_build_sample_table": (
        *(_POINTER, _INT, _INT, _INT, _POINTER, _INT),
        *(_DOUBLE, _DOUBLE, _TABLE, _POINTER),
    ),
    "bev_build_splat_table": (
        *(_POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _INT),
        *(ctypes.POINTER(SplatGrid), _POINTER, _POINTER, _TABLE, _POINTER),
    ),
    "bev_image_taps": (_INT, _INT, _INT, _INT, _INT, _POINTER, _POINTER),
    "bev_image_scratch_bytes": (_INT,),
    "bev_images": (
        *(ctypes.POINTER(Image), _INT, _INT, _INT, _POINTER),
        *(_INT, _POINTER, _POINTER, _INT),
    ),
    "bev_pillar_features": (
        *(_POINTER, _INT, _INT, ctypes.POINTER(PillarGrid)),
        *(_POINTER, _POINTER, _POINTER),
    ),
}


def open_library(path: Path) -> ctypes.CDLL:
    """Opens a library and declares its functions.

    Raises:
        OSError: it is absent, cannot be loaded on this machine, or has another interface version.
    """
    if not path.is_file():
        raise OSError(f"{path.name} was not built: install a C++ compiler and reinstall")
    library = ctypes.CDLL(str(path))
    version = getattr(library, "bev_abi_version", None)
    if version is None or version() != ABI_VERSION:
        found = "none" if version is None else version()
        raise OSError(
            f"{path.name} has interface version {found}, expected {ABI_VERSION}: reinstall"
        )
    library.bev_variant.restype = ctypes.c_char_p
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int64
    return library


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library, or None where it cannot be used; the reason is logged once."""
    try:
        return open_library(LIBRARY)
    except OSError as problem:
        logging.getLogger(__name__).warning(
            "native kernels are off, numpy does the work: %s", problem
        )
        return None


def available() -> bool:
    """Whether the native kernels are used."""
    return load() is not None


def variant() -> str:
    """The code path in use: `avx512`, `avx2`, `portable`, or `numpy` without the library."""
    library = load()
    return "numpy" if library is None else str(library.bev_variant().decode())


def limit_variant(name: str) -> None:
    """Uses no code path beyond `avx512`, `avx2` or `portable` from now on, in this process.

    Paths differ in the last bits of a sum; a limit makes unlike processors agree.

    Raises:
        ValueError: there is no such path.
    """
    library = load()
    if library is not None and library.bev_limit_variant(name.encode()) < 0:
        raise ValueError(f"code path is '{name}', expected avx512, avx2 or portable: pick one")


def check(code: int, what: str) -> int:
    """Passes a count on and turns an error code into an exception.

    Raises:
        ValueError: `code` is negative.
    """
    if code < 0:
        raise ValueError(f"{what} refused its arguments: {ERRORS.get(code, f'error {code}')}")
    return code
