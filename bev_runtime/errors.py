"""The one exception tree of the runtime.

Every message says what is wrong, the value, what was expected and what to do. Configuration,
manifests and calibration raise at load. A bad sensor sample raises `SampleRejected` while it is
converted; the runtime catches it, counts it by its `reason` and goes on with the sensors that are
left.
"""

from __future__ import annotations


class BevRuntimeError(Exception):
    """Base of every error that the runtime raises on purpose."""


class ConfigError(BevRuntimeError):
    """A rig file, an option or a fault specification is wrong."""


class ModelError(BevRuntimeError):
    """A model package is incomplete, unsafe, tampered with or does not fit its manifest."""


class CalibrationError(BevRuntimeError):
    """Intrinsics, distortion or a transform cannot be used."""


class TransformError(BevRuntimeError):
    """The transform tree has no path between two frames at a time."""


class BagError(BevRuntimeError):
    """A bag is missing, truncated, or holds nothing that the rig can use."""


class BackendError(BevRuntimeError):
    """An inference backend cannot be loaded or failed while running."""


class MissingExtraError(BevRuntimeError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class SampleRejected(BevRuntimeError):
    """One sensor sample cannot be used.

    Args:
        reason: a short snake_case word that counters are keyed by, for example `corrupt_jpeg`.
        detail: the whole sentence for the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
