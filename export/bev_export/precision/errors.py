"""What a lower precision does to every tensor of a package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_export.verify.capture import Call
from bev_export.verify.compare import Difference, measure
from bev_export.verify.plain import outputs_of, run_plainly
from bev_runtime.model import ModelPackage

SHOWN = 10


@dataclass(frozen=True, slots=True)
class Errors:
    """Differences from float32, in deviations of each tensor: of outputs, and of all tensors in
    the order of computation.
    """

    outputs: tuple[Difference, ...]
    inside: tuple[Difference, ...]

    @property
    def largest(self) -> float:
        """The largest root mean square of an output."""
        return max((item.rms for item in self.outputs), default=0.0)

    def text(self) -> str:
        """The outputs, and the worst tensors inside."""
        lines = ["errors in deviations of each tensor in float32"]
        lines += [f"  output {item}" for item in self.outputs]
        worst = sorted(self.inside, key=lambda item: -item.rms)[:SHOWN]
        lines += [f"  inside {item}" for item in worst]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """For scripts."""
        return {
            "outputs": [item.as_dict() for item in self.outputs],
            "inside": [item.as_dict() for item in self.inside],
        }


def measure_errors(
    exact: ModelPackage, coarse: ModelPackage, calls: Sequence[Call], *, inside: bool = True
) -> Errors:
    """Runs both on the same inputs; of several calls the worst counts.

    Args:
        exact: the package in float32.
        coarse: the same in another precision.
        calls: inputs of the runtime; each package makes its own features from them.
        inside: look at every tensor, not only at the outputs.
    """
    found: dict[str, Difference] = {}
    final: dict[str, Difference] = {}
    for call in calls:
        # What a memory kept counts as an input: both packages get the same past.
        right, other = (run_plainly(model, call, inside=inside) for model in (exact, coarse))
        ends = outputs_of(exact, right)
        for stage, tensors in other.items():
            for name, array in tensors.items():
                expected = right[stage].get(name)
                if expected is None or not np.issubdtype(expected.dtype, np.floating):
                    continue
                item = measure(name, array, expected)
                for kept in (found, *([final] if name in ends else [])):
                    if name not in kept or item.rms > kept[name].rms:
                        kept[name] = item
    return Errors(tuple(final.values()), tuple(found.values()))
