"""OpenVINO on the CPU: faster than ONNX Runtime, in float32 or, where asked for, in bfloat16."""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from bev_runtime.backends.cut_stages import SessionBackend
from bev_runtime.backends.openvino_session import OpenVinoSession, core
from bev_runtime.backends.session_parts import Session
from bev_runtime.errors import BackendError
from bev_runtime.model import ModelPackage

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}


class OpenVinoBackend(SessionBackend):
    """Computes in float32 whatever the CPU offers. See `Backend`."""

    precision = "f32"

    def make_session(self, model: onnx.ModelProto, name: str) -> Session:
        """See `SessionBackend.make_session`."""
        return OpenVinoSession(model, name, num_threads=self.num_threads, precision=self.precision)


class OpenVinoBf16Backend(OpenVinoBackend):
    """Computes in bfloat16, which has the range of float32 and three digits. See `Backend`.

    Raises:
        BackendError: the CPU has no instructions for bfloat16.
    """

    precision = "bf16"

    def __init__(self, model: ModelPackage, *, num_threads: int) -> None:
        require_bfloat16()
        super().__init__(model, num_threads=num_threads)


def require_bfloat16() -> None:
    """Refuses a CPU on which bfloat16 would be emulated.

    OpenVINO's own list of capabilities has it for every CPU with AVX-512, and computes it there at
    a loss; so the CPU's flags are asked.

    Raises:
        BackendError: the CPU has no instructions for bfloat16.
    """
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
    flags = set(re.sub(r"^(?!flags).*$", "", text, flags=re.MULTILINE).split())
    if flags & BFLOAT16_FLAGS and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return
    name = core().get_property("CPU", "FULL_DEVICE_NAME")
    raise BackendError(
        f"backend 'openvino_bf16' on the CPU '{name}', which has no instructions for bfloat16 that "
        f"OpenVINO uses (expected one of {', '.join(sorted(BFLOAT16_FLAGS))} in {CPUINFO}): run "
        "with --backend openvino"
    )
