"""Faults on purpose: one grammar for replay, for the live fault proxy and for tests.

`KIND:SENSOR[@FROM-TO][,key=value...]`, times in seconds since the first message; SENSOR may be a
pattern (`CAM_*`). Faults work on CDR bytes, in front of everything that the runtime does, and each
has random numbers of its own. What each kind does is in docs/robustness.md.
"""

from bev_runtime.faults.grammar import GRAMMAR, KINDS, Fault, parse_fault
from bev_runtime.faults.proxy import FaultProxy

__all__ = ["GRAMMAR", "KINDS", "Fault", "FaultProxy", "parse_fault"]
