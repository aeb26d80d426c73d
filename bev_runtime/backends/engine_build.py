"""Builds engines in a child process and keeps them in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bev_runtime.backends.engine_cache import NOT_BUILT, Engine, EngineCache, EngineKey, Miss
from bev_runtime.backends.engine_parts import EnginePart, manifest_sha256, stage_parts
from bev_runtime.backends.engine_target import RTX_TARGETS, Target
from bev_runtime.errors import BackendError
from bev_runtime.model import ModelPackage

TIMEOUT_S = 3600.0
ERROR_LINES = 3
Progress = Callable[[str, float], None]
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Built:
    """An engine, and how it was come by: `reason` is why it was built, None from the cache."""

    part: EnginePart
    engine: Engine
    reason: str | None
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


def build_model(
    model: ModelPackage,
    target: Target,
    cache: EngineCache,
    *,
    progress: Progress | None = None,
) -> Iterator[Built]:
    """Every engine of a model, from the cache where it may be used, else built.

    Args:
        model: a checked package.
        target: what for.
        cache: where engines are kept.
        progress: called with a description and the share that is done, 0..1.

    Raises:
        BackendError: the builder refused a graph or died.
        ModelError: a graph cannot be cut.
    """
    for stage in model.manifest.stages:
        parts = stage_parts(model, stage.name, with_plugin=target.plugin is not None)
        for part in parts.parts:
            yield get_engine(model, part, target, cache, progress=progress)


def get_engine(
    model: ModelPackage,
    part: EnginePart,
    target: Target,
    cache: EngineCache,
    *,
    progress: Progress | None = None,
) -> Built:
    """One engine, from the cache or built; see `build_model`."""
    if not part.pools:
        target = replace(target, plugin=None)
    key = make_key(model, part, target)
    slot = slot_name(model, part, target)
    found = cache.load(slot, key)
    if isinstance(found, Engine):
        return Built(part, found, None)
    if target.backend == "tensorrt_rtx" and set(target.sm) < set(RTX_TARGETS):
        # One file for several GPUs serves each of them.
        shared = replace(target, sm=RTX_TARGETS)
        other = cache.load(slot_name(model, part, shared), make_key(model, part, shared))
        if isinstance(other, Engine):
            return Built(part, other, None)
    level = logging.INFO if found.reason == NOT_BUILT else logging.WARNING
    log.log(level, "engine %s is built: %s", cache.path(slot), found.reason)
    return _build(part, target, cache, slot, key, found, progress or _silent)


def make_key(model: ModelPackage, part: EnginePart, target: Target) -> EngineKey:
    """All that the engine of a part depends on."""
    return EngineKey(
        onnx_sha256=part.onnx_sha256,
        manifest_sha256=manifest_sha256(model.manifest),
        library=f"{target.backend} {target.version}",
        gpu=target.gpu,
        sm=target.sm_text,
        precision=part.precision,
        plugin_sha256=_file_sha256(target.plugin) if target.plugin is not None else "",
        profiles=part.profile_text,
    )


def slot_name(model: ModelPackage, part: EnginePart, target: Target) -> str:
    """Where the cache keeps the engine of a part: one file, whatever else changes."""
    return f"{model.manifest.name}.{part.name}.{target.backend}.sm{target.sm_text}"


def _build(
    part: EnginePart,
    target: Target,
    cache: EngineCache,
    slot: str,
    key: EngineKey,
    miss: Miss,
    progress: Progress,
) -> Built:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".build-") as name:
        folder = Path(name)
        (folder / "graph.onnx").write_bytes(part.onnx_bytes)
        job = {
            "module": target.module,
            "onnx": str(folder / "graph.onnx"),
            "engine": str(folder / "engine"),
            "plugin": str(target.plugin or ""),
            "sm": list(target.sm) if target.backend == "tensorrt_rtx" else [],
            "profiles": {
                input_name: [profile.least, profile.best, profile.most]
                for input_name, profile in part.profiles.items()
            },
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        said = run_worker(folder / "job.json", part.name, progress)
        data = (folder / "engine").read_bytes()
    seconds = time.perf_counter() - start
    facts = {
        "part": part.name,
        "inputs": [tensor.model_dump(mode="json") for tensor in part.inputs],
        "outputs": [tensor.model_dump(mode="json") for tensor in part.outputs],
        "profiles": {name: asdict(profile) for name, profile in part.profiles.items()},
        "layers": said.get("layers", []),
        "build_s": round(seconds, 3),
    }
    engine = cache.store(slot, key, data, facts)
    return Built(part, engine, miss.reason, seconds, said.get("warnings", []))


def run_worker(
    job: Path, name: str, progress: Progress, *, timeout_s: float = TIMEOUT_S
) -> Mapping[str, Any]:
    """Runs the child process and passes its progress on.

    Args:
        job: the job file.
        name: how messages name what is built.
        progress: see `build_model`.
        timeout_s: a build that takes longer is ended.

    Returns:
        `layers` of the parsed network, and `warnings`.

    Raises:
        BackendError: the graph was refused, the process died or ran out of time.
    """
    command = [sys.executable, "-m", "bev_runtime.backends.engine_worker", str(job)]
    said: dict[str, Any] = {"warnings": []}
    with tempfile.TemporaryFile() as noise:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=noise
        ) as child:
            clock = threading.Timer(timeout_s, child.kill)
            clock.start()
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    _hear(line, said, name, progress)
                code = child.wait()
            finally:
                expired = not clock.is_alive()
                clock.cancel()
                child.kill()  # a build that is interrupted leaves no process behind
        noise.seek(0)
        last = noise.read().decode(errors="replace").strip().splitlines()[-ERROR_LINES:]
    if code == 0:
        return said
    if expired:
        reason = f"it took longer than {timeout_s:g} s"
    elif code < 0:
        reason = f"the builder died of {signal.Signals(-code).name}: {' / '.join(last)}"
    else:
        reason = said.get("error") or " / ".join(last)
    raise BackendError(
        f"no engine for '{name}': {reason}. Check that the graph holds only operators that this "
        "TensorRT knows, or run the model with --backend onnxruntime"
    )


def _hear(line: bytes, said: dict[str, Any], name: str, progress: Progress) -> None:
    """Takes one line of the child; libraries print there too, and what is not ours is no news."""
    if not re.match(rb"\{.*\}\s*$", line):
        return
    try:
        news = json.loads(line)
    except ValueError:
        return
    if "phase" in news:
        progress(f"{name}: {news['phase']}", news["step"] / max(news["steps"], 1))
    elif "warning" in news:
        said["warnings"].append(news["warning"])
    else:
        said.update(news)


def _file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _silent(what: str, share: float) -> None:
    """Progress that nobody watches."""
