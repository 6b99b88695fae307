"""Model runtimes behind one port (`edge_agent.ports.Runtime`); each is imported and made when first asked for.

litert   ai-edge-litert (default) and tflite-runtime: variants with runtime "litert"
onnx     ONNX Runtime: variants with runtime "onnx"
selftest the release's golden vectors, run on one of them
measuring what a variant costs on one of them, in a child process
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import metadata
from importlib.util import find_spec

from edge_agent.errors import RuntimeMissingError
from edge_agent.ports import Runtime
from fleet.protocol.manifest import Variant


@cache
def _litert() -> Runtime:
    from edge_agent.runtimes.litert import LiteRt

    return LiteRt()


@cache
def _tflite() -> Runtime:
    from edge_agent.runtimes.litert import TfLite

    return TfLite()


@cache
def _onnx() -> Runtime:
    from edge_agent.runtimes.onnx import OnnxRuntime

    return OnnxRuntime()


# distribution -> (importable module, kind of variant, extra that installs it, factory); best first
RUNTIMES: dict[str, tuple[str, str, str, Callable[[], Runtime]]] = {
    "ai-edge-litert": ("ai_edge_litert", "litert", "", _litert),
    "tflite-runtime": ("tflite_runtime", "litert", "tflite", _tflite),
    "onnxruntime": ("onnxruntime", "onnx", "onnx", _onnx),
}


def available() -> dict[str, str]:
    """Installed runtimes and their versions, without importing any."""
    return {name: metadata.version(name) for name, (module, *_) in RUNTIMES.items() if find_spec(module) is not None}


def kinds() -> frozenset[str]:
    """The kinds of variant this device can run (`litert`, `onnx`)."""
    return frozenset(RUNTIMES[name][1] for name in available())


def named(name: str) -> Runtime:
    """The runtime called `name`.

    Raises:
        RuntimeMissingError: unknown or not installed; the hint names the extra.
    """
    if name not in RUNTIMES:
        raise RuntimeMissingError(f"unknown runtime {name!r}", hint=f"one of {', '.join(RUNTIMES)}")
    module, _, extra, factory = RUNTIMES[name]
    if find_spec(module) is None:
        wanted = f"pip install 'edgeloop[{extra}]'" if extra else f"pip install {name}"
        raise RuntimeMissingError(f"runtime {name} is not installed", hint=wanted)
    return factory()


def for_variant(variant: Variant) -> Runtime:
    """The best installed runtime for a variant; one that it was proven on goes before the others.

    Raises:
        RuntimeMissingError: none is installed; the hint names the extra.
    """
    fitting = [name for name, entry in RUNTIMES.items() if entry[1] == variant.runtime]
    fitting.sort(key=lambda name: bool(variant.runtimes) and name not in variant.runtimes)  # stable: best first
    for name in fitting:
        if find_spec(RUNTIMES[name][0]) is not None:
            return named(name)
    return named(fitting[0])
