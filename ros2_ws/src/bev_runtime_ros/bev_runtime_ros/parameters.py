"""Declares, locks and reads the parameters of the table on a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from bev_runtime.errors import ConfigError
from bev_runtime_ros.parameter_table import (
    BY_NAME,
    OF_ROS,
    PARAMETERS,
    Settings,
    Spec,
    check,
    refuse_unknown,
)


def declare(node: Node, is_locked: Callable[[], bool]) -> None:
    """Declares every parameter of the table on a node that was made with
    `automatically_declare_parameters_from_overrides=True`.

    Args:
        node: gets the parameters.
        is_locked: whether values may no longer change.

    Raises:
        ConfigError: a parameter is unknown, of a wrong type or out of bounds.
    """
    given = {name for name in node.get_parameters_by_prefix("") if not name.startswith(OF_ROS)}
    refuse_unknown(given)
    for spec in PARAMETERS:
        override = node.get_parameter(spec.name).value if spec.name in given else spec.default
        if type(spec.default) is float and type(override) is int:
            override = float(override)
        check(spec, override)
        if spec.name in given:
            node.undeclare_parameter(spec.name)
        node.declare_parameter(spec.name, override, _descriptor(spec), ignore_override=True)

    def on_set(parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            spec = BY_NAME.get(parameter.name)
            if spec is None:
                continue
            if is_locked():
                reason = (
                    f"parameter {spec.name} is read-only after configure: deactivate and clean up "
                    "the node, set it, and configure again"
                )
                return SetParametersResult(successful=False, reason=reason)
            try:
                check(spec, parameter.value)
            except ConfigError as problem:
                return SetParametersResult(successful=False, reason=str(problem))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_set)


def read(node: Node) -> Settings:
    """The present values."""
    return Settings({spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS})


def _descriptor(spec: Spec) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=spec.help, additional_constraints=" | ".join(spec.choices)
    )
    if isinstance(spec.default, float) and spec.low is not None and spec.high is not None:
        span = FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high), step=0.0)
        descriptor.floating_point_range = [span]
    elif isinstance(spec.default, int) and spec.low is not None and spec.high is not None:
        limits = IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)
        descriptor.integer_range = [limits]
    return descriptor
