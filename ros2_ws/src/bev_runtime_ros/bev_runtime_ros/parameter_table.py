"""The table of the node's parameters: what is declared, checked, printed by --help and documented.

Knows nothing of ROS, so that parameter files can be checked anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bev_runtime.backends import BACKENDS
from bev_runtime.errors import ConfigError

Value = bool | int | float | str | list[str]


@dataclass(frozen=True, slots=True)
class Spec:
    """One parameter. `low` and `high` bound numbers; `choices` bound words."""

    name: str
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The type's name, as ROS 2 has it."""
        names = {bool: "bool", int: "int", float: "double", str: "string", list: "string[]"}
        return names[type(self.default)]

    @property
    def allowed(self) -> str:
        """The bounds in words; empty where there are none."""
        if self.choices:
            return " | ".join(self.choices)
        return f"{self.low:g} to {self.high:g}" if self.low is not None else ""


RELIABILITIES = ("best_effort", "reliable", "auto")
PARAMETERS = (
    Spec("model", "twinlite_ground_map", "model folder, or the name of a shipped model"),
    Spec("backend", "onnxruntime", "inference backend", choices=tuple(sorted(BACKENDS))),
    Spec("num_threads", 0, "CPU threads of one inference; 0: all cores", 0, 64),
    Spec(
        "rig_file",
        "",
        "rig file (YAML) with topics, timing and perhaps calibration; empty: the next parameters "
        "make the rig",
    ),
    Spec(
        "cameras",
        [""],
        "without rig_file: camera names; each is subscribed at ~/input/<camera>/image and "
        "~/input/<camera>/camera_info (default: the names that the model asks for)",
    ),
    Spec("lidar", "", "without rig_file: name of the LiDAR at ~/input/points; empty: none"),
    Spec("base_frame", "base_link", "without rig_file: frame of the outputs"),
    Spec(
        "fixed_frame", "odom", "without rig_file: frame in which ego motion is known; empty: none"
    ),
    Spec(
        "ego_motion",
        "tf",
        "without rig_file: where ego motion comes from (odometry: ~/input/odometry)",
        choices=("tf", "odometry", "none"),
    ),
    Spec(
        "input_qos.reliability",
        "best_effort",
        "of sensor subscriptions; auto: reliable where every publisher is",
        choices=RELIABILITIES,
    ),
    Spec("input_qos.depth", 5, "of sensor subscriptions", 1, 100),
    Spec("publish.detections", True, "~/output/detections (vision_msgs)"),
    Spec("publish.instances", True, "~/output/instances (vision_msgs), of models that predict"),
    Spec("publish.objects", True, "~/output/objects (autoware_perception_msgs)"),
    Spec("publish.map", True, "~/output/map/<layer>"),
    Spec("publish.markers", True, "~/output/markers, made while somebody listens"),
    Spec("publish.timings", True, "~/debug/..., made while somebody listens"),
    Spec("diagnostics.period_s", 0.5, "between two messages on /diagnostics", 0.05, 10.0),
    Spec(
        "diagnostics.max_allowed_processing_time_ms",
        200.0,
        "an output that takes longer turns processing_time_status to WARN",
        1.0,
        60_000.0,
    ),
    Spec(
        "diagnostics.max_acceptable_consecutive_delay_ms",
        1000.0,
        "when outputs take too long for this long, it turns to ERROR",
        1.0,
        600_000.0,
    ),
    Spec(
        "watchdog_s",
        2.0,
        "an inference that runs for longer is reported as hung, and after five times this the "
        "process ends with exit code 1, to be respawned",
        0.1,
        600.0,
    ),
    Spec(
        "executor",
        "auto",
        "of the thread that receives; auto: rclpy's EventsExecutor where there is one",
        choices=("auto", "events", "single_threaded"),
    ),
    Spec("autostart", False, "configure and activate without being asked"),
)
BY_NAME = {spec.name: spec for spec in PARAMETERS}
OF_ROS = ("use_sim_time", "qos_overrides.", "start_type_description_service")
"""Parameters that rclpy itself declares, by their beginning."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The values of all parameters; `value` is keyed by the names of the table."""

    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.values[name]

    def names(self, name: str) -> tuple[str, ...]:
        """A list parameter without its empty entries."""
        return tuple(word for word in self.values[name] if word)


def refuse_unknown(names: Iterable[str]) -> None:
    """Raises ConfigError if a name is not in the table."""
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise ConfigError(
            f"unknown parameters {', '.join(unknown)}; expected some of {', '.join(BY_NAME)}"
        )


def check(spec: Spec, value: Any) -> None:  # noqa: ANN401
    """Raises ConfigError if a value is of a wrong type or out of bounds."""
    fits = type(value) is type(spec.default)
    if isinstance(spec.default, list):
        fits = isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)
    if not fits:
        raise ConfigError(
            f"parameter {spec.name} is {value!r}, expected a {spec.kind}"
            + (f", {spec.allowed}" if spec.allowed else "")
        )
    bad_word = spec.choices and value not in spec.choices
    bad_number = (
        spec.low is not None and spec.high is not None and not spec.low <= value <= spec.high
    )
    if bad_word or bad_number:
        raise ConfigError(f"parameter {spec.name} is {value!r}, expected {spec.allowed}")


def table() -> list[tuple[str, str, str, str, str]]:
    """Name, type, default, bounds and meaning of every parameter, as text."""
    rows = []
    for spec in PARAMETERS:
        default = "[]" if spec.default == [""] else repr(spec.default).replace("'", '"')
        default = default.lower() if isinstance(spec.default, bool) else default
        rows.append((spec.name, spec.kind, default, spec.allowed, spec.help))
    return rows
