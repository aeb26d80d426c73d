"""The checkpoint fixtures of the data pack: formula weights and images, expected values, pass rule.

Every weight follows from its key, its shape and a seed, so a whole checkpoint is made without
storing one.
"""

from __future__ import annotations

import json
import math
import zlib
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from data_pack import data_pack
from numpy.typing import NDArray

MEAN_LIMIT, CELL_LIMIT, CELL_SHARE = 1e-3, 2e-2, 0.999
Float32 = NDArray[np.float32]


def generator(text: str) -> np.random.Generator:
    """The random numbers that belong to a text."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(text.encode())))


class Fixture:
    """One model's folder; a test that makes one is skipped where the data pack has none.

    Args:
        model: the folder's name.
        seed: of the weights and inputs; expected values exist for 0.
    """

    def __init__(self, model: str, seed: int = 0) -> None:
        self.model, self.seed = model, seed
        self.folder = data_pack() / "checkpoints" / model
        if not self.folder.is_dir():
            pytest.skip(f"no checkpoint fixture in {self.folder}")

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`."""
        return self._json("config.json")

    @cached_property
    def info(self) -> dict[str, Any]:
        """`info_seed*.json`."""
        return self._json(f"info_seed{self.seed}.json")

    @cached_property
    def keys(self) -> list[tuple[str, tuple[int, ...], str, str]]:
        """Key, shape, dtype, and `weight` or `computed`, in the state_dict's order."""
        return [(key, tuple(shape), *rest) for key, shape, *rest in self._json("keys.json")]

    @cached_property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """The small inputs by name."""
        with np.load(self.folder / f"inputs_seed{self.seed}.npz") as file:
            return dict(file)

    @cached_property
    def expected(self) -> dict[str, NDArray[Any]]:
        """Outputs and intermediates by name."""
        with np.load(self.folder / f"expected_seed{self.seed}.npz") as file:
            return dict(file)

    def weights(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The formula weight of every key with a prefix that is not computed."""
        scale = self._json("weight_scale.json")
        names = {key for key, *_ in self.keys}
        weights: dict[str, NDArray[Any]] = {}
        for key, shape, _, kind in self.keys:
            if kind == "computed" or not key.startswith(prefix):
                continue
            value = self._weight(key, shape, f"{key.rpartition('.')[0]}.running_mean" in names)
            if value.dtype != np.int64:
                value = value * scale["mul"].get(key, 1.0)
                value = np.asarray(value + scale["add"].get(key, 0.0), np.float32)
            weights[key] = value
        return weights

    def crc32(self) -> dict[str, str]:
        """The checksum of the bytes of every formula weight of seed 0, eight hexadecimal digits."""
        return self._json("weights_crc32_seed0.json")

    def pixels(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The formula images, uint8 [..., H, W]: shades of 16 x 16 pixels with noise."""
        *lead, height, width = shape
        rng = generator(f"{self.seed}:{self.model}/images")
        low = rng.integers(0, 256, size=(*lead, height // 16, width // 16), dtype=np.int64)
        noise = rng.integers(-24, 25, size=(*lead, height, width), dtype=np.int64)
        shades = np.repeat(np.repeat(low, 16, axis=-2), 16, axis=-1)
        return np.clip(shades + noise, 0, 255).astype(np.uint8)

    def _weight(self, key: str, shape: tuple[int, ...], is_norm: bool) -> NDArray[Any]:
        leaf = key.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            return np.zeros(shape, np.int64)
        z = generator(f"{self.seed}:{key}").standard_normal(shape)
        if leaf == "running_mean":
            return np.asarray(0.05 * z)
        if leaf == "running_var":
            return np.asarray(1 + 0.2 * np.abs(z))
        if leaf == "weight" and (is_norm or len(shape) == 1):
            return np.asarray(np.maximum(1 + 0.1 * z, 0.5))
        if leaf == "bias":
            return np.asarray((0.05 if is_norm else 0.01) * z)
        if leaf == "weight":
            return np.asarray(z * np.sqrt(2 / math.prod(shape[1:])))
        return np.asarray(z if leaf == "learned_features" else 0.01 * z)

    def _json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def difference(found: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """The pass rule's two numbers, in standard deviations of the expected array.

    Returns:
        The mean absolute difference, and the share of elements that differ by less than 0.02.
    """
    assert found.shape == expected.shape, (found.shape, expected.shape)
    off = np.abs(found.astype(np.float64) - expected) / expected.std(dtype=np.float64)
    return float(off.mean()), float((off < CELL_LIMIT).mean())


def assert_same(found: NDArray[Any], expected: NDArray[Any], *, mean: float = MEAN_LIMIT) -> None:
    """Applies the pass rule of the fixtures."""
    error, share = difference(found, expected)
    assert error < mean, f"mean difference is {error:.2e} standard deviations"
    assert share >= CELL_SHARE, f"only {share:.5f} of the elements are within {CELL_LIMIT}"
