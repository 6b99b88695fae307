"""A hook for `edge-agent run --redact`, which makes a runtime end the process on models that say so.

A real crash of native code: a null pointer is read. A model of this kind is `crashing(data)`.
"""

from __future__ import annotations

import ctypes

from edge_agent.runtimes.onnx import OnnxRuntime

HOOK = f"{__name__}:keep"
MARK = b"a model that ends the process"
_load = OnnxRuntime.load


def crashing(data: bytes) -> bytes:
    """The model with the mark in its documentation (field 6)."""
    return data + b"\x32" + bytes([len(MARK)]) + MARK


def keep(sample):
    """Leaves samples as they are."""
    return sample


def _crash(self, model, manifest, variant):
    if MARK in model:
        ctypes.string_at(0)
    return _load(self, model, manifest, variant)


OnnxRuntime.load = _crash  # type: ignore[method-assign]
