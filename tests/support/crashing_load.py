"""A hook for `edge-agent run --redact`, which makes a runtime fail as native code does, on models that say so.

A null pointer is read (`crashing(data)`), or the interpreter's lock is kept for ever (`stuck(data)`).
"""

from __future__ import annotations

import ctypes

from edge_agent.runtimes import Installed

HOOK = f"{__name__}:keep"
CRASH, STICK = b"a model that ends the process", b"a model that keeps the lock"
_load = Installed.load


def crashing(data: bytes) -> bytes:
    """The model with the mark in its documentation (field 6)."""
    return data + b"\x32" + bytes([len(CRASH)]) + CRASH


def stuck(data: bytes) -> bytes:
    """As `crashing`."""
    return data + b"\x32" + bytes([len(STICK)]) + STICK


def keep(sample):
    """Leaves samples as they are."""
    return sample


def _crash(self, model, manifest, variant):
    if CRASH in model:
        ctypes.string_at(0)
    if STICK in model:
        ctypes.PyDLL(None).pause()  # PyDLL keeps the lock, and no signal's handler returns here
    return _load(self, model, manifest, variant)


Installed.load = _crash  # type: ignore[method-assign]
