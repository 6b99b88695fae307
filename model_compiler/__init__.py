"""A trained model in; measured, gated, quantized variants out, packed as a release.

    main         the `model-compiler` command
    pipeline     the whole job, top to bottom
    sources      where a model comes from: torch, ONNX, or an existing file
    data         calibration and validation sets
    variants/    one builder per runtime
    runners      running a variant, in a child process, to measure it
    verdict      what was measured, in numbers and plain words
    deferral     calibrated confidence and the threshold for asking the cloud
    vectors      golden self-test vectors
    reference    the drift encoder, its reference and margin
    pack         the release directory
    errors       the exception tree

Heavy packages (torch, litert_torch, ai_edge_quantizer, onnx) are imported where they are used. From Python:

    from model_compiler import CompileRequest, compile_release, make_dataset
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_compiler.data import Dataset, make_dataset
    from model_compiler.errors import CompilerError
    from model_compiler.pipeline import compile_release
    from model_compiler.qat import finetune
    from model_compiler.request import CompileReport, CompileRequest

__all__ = ["CompileReport", "CompileRequest", "CompilerError", "Dataset", "compile_release", "finetune", "make_dataset"]

_HOMES = {
    "CompileReport": "request",
    "CompileRequest": "request",
    "CompilerError": "errors",
    "Dataset": "data",
    "compile_release": "pipeline",
    "finetune": "qat",
    "make_dataset": "data",
}


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` from its home, so that a child process which needs one module loads only that one."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
