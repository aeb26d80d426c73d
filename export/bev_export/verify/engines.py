"""Whether TensorRT-RTX compiles every part of a package; it needs no GPU for that."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bev_export.verify.checks import Check
from bev_runtime.backends.engine_build import build_model
from bev_runtime.backends.engine_cache import EngineCache
from bev_runtime.backends.engine_target import make_target
from bev_runtime.errors import BackendError, MissingExtraError, ModelError
from bev_runtime.model import ModelPackage

BACKEND = "tensorrt_rtx"
TARGETS = (80, 86, 89, 120)
"""Ampere to Blackwell. TensorRT-RTX has no float32 matrix product for Turing (SM 75)."""
log = logging.getLogger("bev_runtime.backends.engine_build")


def check_engines(model: ModelPackage) -> Iterator[Check]:
    """Compiles every part anew; engines are not run and not kept."""
    try:
        target = make_target(BACKEND, sm=TARGETS)
    except MissingExtraError as problem:
        yield Check("TensorRT-RTX compiles", None, f"not made: {problem}")
        return
    level = log.level
    log.setLevel(logging.ERROR)  # that an engine is new is no news in an empty cache
    with tempfile.TemporaryDirectory() as name:
        cache = EngineCache(Path(name) / "engines")
        try:
            for built in build_model(model, target, cache):
                part = built.part
                yield Check(
                    f"TensorRT-RTX compiles {part.name}",
                    True,
                    f"{part.precision}, {built.seconds:.1f} s",
                )
        except (BackendError, ModelError) as problem:
            yield Check("TensorRT-RTX compiles", False, str(problem))
        finally:
            log.setLevel(level)
