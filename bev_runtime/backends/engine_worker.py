"""The process that compiles one engine: `python -m bev_runtime.backends.engine_worker JOB.json`.

A parser that meets a graph it cannot take may end its whole process, so it gets a process of its
own. Progress goes to stdout, a JSON object a line; the engine goes to a file of the job's folder.
Exit codes: 0 built, 1 refused (the last line of stdout has `error`).
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bev_runtime.backends.device_memory import Untyped


def say(**line: object) -> None:
    """One JSON object to the parent."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def make_logger(trt: Untyped) -> Untyped:
    """A logger that passes warnings on and keeps the last errors."""

    class _Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Untyped, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                say(warning=message)

    return _Logger()


def make_monitor(trt: Untyped) -> Untyped:
    """Tells the parent about every step of the outermost phases."""

    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._steps[phase_name] = num_steps
                say(phase=phase_name, step=0, steps=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                say(phase=phase_name, step=step + 1, steps=self._steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, None)
            if steps is not None:
                say(phase=phase_name, step=steps, steps=steps)

    return _Monitor()


def build(job: dict[str, Any]) -> str | None:
    """Compiles the job's graph; the reason if that cannot be done.

    Args:
        job: `module`, `onnx`, `engine`, `plugin` (paths; plugin may be empty), `profiles` ({input:
            [least, best, most]}), `sm` (list of numbers; empty: the GPU of this machine).
    """
    trt: Untyped = import_module(job["module"])
    logger = make_logger(trt)
    if job["plugin"]:
        trt.init_libnvinfer_plugins(logger, "")
        if trt.get_plugin_registry().load_library(job["plugin"]) is None:
            return f"plugin {job['plugin']} was refused: {'; '.join(logger.errors[-3:])}"
    builder = trt.Builder(logger)
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(job["onnx"]).read_bytes()):
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        return "; ".join(f"node {item.node()}: {item.desc()}" for item in problems[:3])
    config = builder.create_builder_config()
    config.progress_monitor = make_monitor(trt)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if job["sm"]:
        problem = _target(trt, config, job["sm"])
        if problem:
            return problem
    profile = builder.create_optimization_profile()
    for name, (least, best, most) in job["profiles"].items():
        profile.set_shape(name, least, best, most)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return "; ".join(logger.errors[-3:]) or "the builder gave no reason"
    Path(job["engine"]).write_bytes(memoryview(plan))
    say(layers=[_describe(network.get_layer(index)) for index in range(network.num_layers)])
    return None


def _target(trt: Untyped, config: Untyped, sm: list[int]) -> str | None:
    """Compiles for named GPUs; only TensorRT-RTX can, full TensorRT measures kernels on the GPU it
    builds for.
    """
    if not hasattr(config, "num_compute_capabilities"):
        return "full TensorRT builds for the GPU of this machine only: leave out --sm"
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(sm)
    for index, number in enumerate(sm):
        if f"SM{number}" not in known:
            names = ", ".join(name[2:] for name in known if name.startswith("SM"))
            return f"compute capability {number} is unknown to this builder, expected {names}"
        config.set_compute_capability(known[f"SM{number}"], index)
    return None


def _describe(layer: Untyped) -> dict[str, Any]:
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    return {
        "name": layer.name,
        "type": str(layer.type).rsplit(".", 1)[-1].lower(),
        "precision": str(outputs[0].dtype).rsplit(".", 1)[-1].lower() if outputs else "",
        "shape": list(outputs[0].shape) if outputs and len(outputs[0].shape) < 16 else [],
    }


def main(path: str) -> int:
    """Runs the job in a file."""
    problem = build(json.loads(Path(path).read_text(encoding="utf-8")))
    if problem is not None:
        say(error=problem)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
