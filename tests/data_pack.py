"""Where the real sensor data is: never inside the project."""

import os
from pathlib import Path

import pytest


def data_pack() -> Path:
    """The folder of the data pack; skips the calling test where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BEV_TEST_DATA", beside))
    if not (folder / "bags").is_dir():
        pytest.skip(f"no sensor data in {folder}: set BEV_TEST_DATA to the data pack")
    return folder
