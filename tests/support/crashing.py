"""Models that end, or hold up, a process which loads them with the hook of `crashing_load`."""

from __future__ import annotations

HOOK = "tests.support.crashing_load:keep"  # imported by the agent's process only: it changes how models are loaded
CRASH, STICK = b"a model that ends the process", b"a model that keeps the lock"


def crashing(data: bytes) -> bytes:
    """The model with the mark in its documentation (field 6)."""
    return data + b"\x32" + bytes([len(CRASH)]) + CRASH


def stuck(data: bytes) -> bytes:
    """As `crashing`."""
    return data + b"\x32" + bytes([len(STICK)]) + STICK
