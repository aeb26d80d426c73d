"""How far two tensors are apart, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences in standard deviations of the reference: of one element, and of the root
    mean square of all.
    """

    worst: float
    rms: float


TOLERANCES = {
    "fp32": Tolerance(5e-3, 5e-4),
    "fp16": Tolerance(float("inf"), 2e-2),
    "int8": Tolerance(float("inf"), 0.5),
}
"""By the lowest precision of a package. A float32 network of a hundred layers ends 1e-6 to 5e-5
(root mean square) away from itself when sums run in another order.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one tensor from its reference, in standard deviations of the reference.

    `worst`: of one element. `rms`: root mean square. `reason`: why the two cannot be compared.
    """

    tensor: str
    worst: float
    rms: float
    reason: str = ""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether it may be."""
        return not self.reason and self.worst <= tolerance.worst and self.rms <= tolerance.rms

    def as_dict(self) -> dict[str, object]:
        """For scripts."""
        out: dict[str, object] = {"tensor": self.tensor}
        return out | ({"reason": self.reason} if self.reason else _numbers(self))

    def __str__(self) -> str:
        if self.reason:
            return f"{self.tensor}: {self.reason}"
        return f"{self.tensor}: worst {self.worst:.2e}, rms {self.rms:.2e} of its deviation"


def measure(name: str, found: Array, reference: Array) -> Difference:
    """Compares two tensors.

    Args:
        name: of the tensor.
        found: what was computed.
        reference: what it should be; its standard deviation is the unit. A constant reference is
            measured in its own magnitude, or in units where it is zero.
    """
    if found.shape != reference.shape:
        reason = f"shape is {list(found.shape)}, expected {list(reference.shape)}"
        return Difference(name, np.inf, np.inf, reason)
    if not np.isfinite(found).all():
        return Difference(name, np.inf, np.inf, "holds values that are not numbers")
    if not reference.size:
        return Difference(name, 0.0, 0.0)
    exact = reference.astype(np.float64)
    off = found.astype(np.float64) - exact
    unit = float(exact.std()) or float(np.abs(exact).max()) or 1.0
    worst, rms = float(np.abs(off).max()), float(np.sqrt(np.square(off).mean()))
    return Difference(name, worst / unit, rms / unit)


def measure_all(found: Arrays, reference: Arrays) -> list[Difference]:
    """Compares the tensors that both have, in the order of `found`."""
    return [measure(name, found[name], reference[name]) for name in found if name in reference]


def _numbers(difference: Difference) -> dict[str, object]:
    return {"worst": difference.worst, "rms": difference.rms}
