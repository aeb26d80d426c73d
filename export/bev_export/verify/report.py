"""What `verify` found, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from bev_export.verify.checks import Check

MARKS = {True: "ok  ", False: "FAIL", None: "skip"}


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one package, in the order in which they were made.

    `precision`: `fp32`, `fp16` or `int8`, which decides the tolerances.
    """

    model: str
    precision: str
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """No check failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def diverges(self) -> str | None:
        """The first tensor of the first failed check that names one."""
        return next((c.diverges for c in self.checks if c.passed is False and c.diverges), None)

    def text(self) -> str:
        """A line for each check."""
        lines = [f"{self.model} ({self.precision})"]
        for check in self.checks:
            lines.append(f"{MARKS[check.passed]} {check.name}: {check.text}")
            if check.diverges:
                lines.append(f"     first: {check.diverges}")
        lines.append("verified" if self.passed else f"NOT verified, first: {self.diverges}")
        return "\n".join(lines)

    def json(self) -> str:
        """One JSON object."""
        checks = [
            {
                "name": check.name,
                "passed": check.passed,
                "text": check.text,
                "diverges": check.diverges,
                "tensors": [item.as_dict() for item in check.tensors],
            }
            for check in self.checks
        ]
        found = {
            "model": self.model,
            "precision": self.precision,
            "passed": self.passed,
            "diverges": self.diverges,
            "checks": checks,
        }
        return json.dumps(found, indent=2, default=str)
