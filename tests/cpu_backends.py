"""The CPU backends that are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

OPENVINO = find_spec("openvino") is not None
BFLOAT16 = bool(
    {"avx512_bf16", "amx_bf16", "avx_ne_convert"}
    & set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
)
needs_openvino = pytest.mark.skipif(not OPENVINO, reason="the extra openvino is not installed")
needs_bfloat16 = pytest.mark.skipif(
    not OPENVINO or not BFLOAT16,
    reason="the extra openvino is not installed, or the CPU has no bfloat16",
)
CPU_BACKENDS = ["onnxruntime", pytest.param("openvino", marks=needs_openvino)]
