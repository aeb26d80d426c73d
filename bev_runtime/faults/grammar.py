"""The grammar of faults: what may be said, and what it means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from bev_runtime.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a fault takes, and what it may be."""

    default: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `needs`: `cloud` or `picture` where it works on the content of those."""

    text: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    needs: str | None = None

    def describe(self) -> str:
        """What it does and takes, in one line."""
        options = ", ".join(f"{name}={p.default:g}" for name, p in self.parameters.items())
        return f"{self.text} ({options})" if options else self.text


SHARE = Parameter(1.0, 0.0, 1.0)
HOUR_MS = 3_600_000.0
KINDS: Mapping[str, Kind] = {
    "drop": Kind("messages vanish, each with the probability p", {"p": SHARE}),
    "freeze": Kind("the last payload before FROM is sent again and again, under new stamps"),
    "delay": Kind(
        "messages arrive ms later, stamps unchanged", {"ms": Parameter(200.0, 0.0, HOUR_MS)}
    ),
    "jitter": Kind(
        "messages arrive up to ms later, drawn uniformly for each",
        {"ms": Parameter(50.0, 0.0, HOUR_MS)},
    ),
    "sector": Kind(
        "points stay within deg degrees of azimuth about the direction yaw, both in the sensor's "
        "frame (counter-clockwise from its x axis)",
        {"deg": Parameter(120.0, 0.0, 360.0), "yaw": Parameter(0.0, -360.0, 360.0)},
        "cloud",
    ),
    "beams": Kind(
        "keep of the values of the field ring stay, evenly spaced",
        {"keep": Parameter(16.0, 1.0, 1024.0)},
        "cloud",
    ),
    "points": Kind(
        "points vanish, each with the probability p", {"p": Parameter(0.5, 0.0, 1.0)}, "cloud"
    ),
    "noise": Kind("the picture is replaced by coloured noise", needs="picture"),
    "black": Kind("the picture is replaced by a black one", needs="picture"),
    "occlude": Kind(
        "opaque blobs of dirt stick on this share of the lens",
        {"share": Parameter(0.3, 0.0, 1.0)},
        "picture",
    ),
}
GRAMMAR = (
    "KIND:SENSOR[@FROM-TO][,key=value], for example drop:CAM_FRONT@2-5, freeze:CAM_BACK@3- (to the "
    "end) or delay:LIDAR_TOP,ms=200"
)
_SPEC = re.compile(
    r"(?P<kind>[a-z_]+):(?P<sensor>[^@,\s]+)(?:@(?P<from>\d*\.?\d*)-(?P<to>\d*\.?\d*))?(?P<options>(?:,[a-z_]+=[^,=]+)*)"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One parsed fault; the window is [from_s, to_s)."""

    spec: str
    kind: str
    sensor: str
    from_s: float = 0.0
    to_s: float = float("inf")
    parameters: Mapping[str, float] = field(default_factory=dict)


def parse_fault(spec: str, sensors: Sequence[str]) -> Fault:
    """Parses one specification.

    Args:
        spec: text in the grammar.
        sensors: names that the rig has; a pattern must match at least one.

    Raises:
        ConfigError: what does not fit the grammar, with what would.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"fault '{spec}' cannot be read, expected {GRAMMAR}")
    kind, sensor = match["kind"], match["sensor"]
    if kind not in KINDS:
        raise ConfigError(
            f"fault '{spec}': unknown kind '{kind}', expected one of {', '.join(KINDS)}"
        )
    if not any(fnmatchcase(name, sensor) for name in sensors):
        raise ConfigError(
            f"fault '{spec}': no sensor matches '{sensor}', the rig has "
            f"{', '.join(sensors) or 'none'}"
        )
    from_s = _number(spec, match["from"]) if match["from"] else 0.0
    to_s = _number(spec, match["to"]) if match["to"] else float("inf")
    if to_s <= from_s:
        raise ConfigError(
            f"fault '{spec}': the window {from_s:g}-{to_s:g} s is empty, FROM must be before TO"
        )
    parameters = _parameters(spec, kind, match["options"])
    return Fault(spec, kind, sensor, from_s, to_s, parameters)


def _parameters(spec: str, kind: str, options: str) -> dict[str, float]:
    known = KINDS[kind].parameters
    values = {name: parameter.default for name, parameter in known.items()}
    for option in filter(None, options.split(",")):
        key, value = option.split("=")
        if key not in known:
            raise ConfigError(
                f"fault '{spec}': {kind} has no parameter '{key}', expected "
                f"{', '.join(known) or 'none'}"
            )
        values[key] = _number(spec, value)
        low, high = known[key].low, known[key].high
        if not low <= values[key] <= high:
            raise ConfigError(
                f"fault '{spec}': {key} must be in {low:g}..{high:.10g}, got {values[key]:g}"
            )
    return values


def _number(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(f"fault '{spec}': '{text}' is not a number")
    return value
