"""A hook for `edge-agent run --redact`, which makes a runtime fail as native code does, on models that say so.

A null pointer is read (`crashing.CRASH`), or the interpreter's lock is kept for ever (`crashing.STICK`). To import it
is to change how this process loads models.
"""

from __future__ import annotations

import ctypes

from edge_agent.runtimes import Installed
from tests.support.crashing import CRASH, STICK

_load = Installed.load


def keep(sample):
    """Leaves samples as they are."""
    return sample


def _crash(self, model, manifest, variant, **front):
    if CRASH in model:
        ctypes.string_at(0)
    if STICK in model:
        ctypes.PyDLL(None).pause()  # PyDLL keeps the lock, and no signal's handler returns here
    return _load(self, model, manifest, variant, **front)


Installed.load = _crash  # type: ignore[method-assign]
