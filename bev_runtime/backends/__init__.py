"""Inference engines behind one interface. Only modules in this package import them, and only when
one is asked for.
"""

from bev_runtime.backends.base import Backend
from bev_runtime.backends.factory import BACKENDS, create_backend

__all__ = ["BACKENDS", "Backend", "create_backend"]
