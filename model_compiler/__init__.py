"""A trained model in; measured, gated, quantized variants out, packed as a release.

The stages, in the order of the work; a blob goes through each of them once, and each imports only those before it:

    inputs/     what is asked, and what is read: request, data sets, sources, the release before
    build/      source and data fit each other; one model file for every target
    evaluate/   what the files answer: run, measured, judged, gated
    search/     other files where these will not do
    package/    manifest, self-test, drift reference, patches: the release directory
    report/     `report.json`, `report.html`, the terminal

Around them:

    main        the `model-compiler` command; `options` and `option_values` are its words
    pipeline    the whole job, top to bottom; `importing` is that of a finished model file
    running/    a model file in a child process: for a front before it is built, for every file after
    qat         fine-tuning with rounding in the loop, for recipes and for the search
    metrics     how good outputs are; `intervals` how sure that is
    user_file   a Python file of the user's, run
    errors      the exception tree

Heavy packages (torch, litert_torch, ai_edge_quantizer, onnx) are imported where they are used. From Python:

    from model_compiler import CompileRequest, compile_release, make_dataset
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_compiler.errors import CompilerError
    from model_compiler.inputs.dataset import Dataset, make_dataset
    from model_compiler.inputs.request import CompileRequest
    from model_compiler.pipeline import compile_release
    from model_compiler.qat import finetune
    from model_compiler.report.document import CompileReport

__all__ = ["CompileReport", "CompileRequest", "CompilerError", "Dataset", "compile_release", "finetune", "make_dataset"]

_HOMES = {
    "CompileReport": "report.document",
    "CompileRequest": "inputs.request",
    "CompilerError": "errors",
    "Dataset": "inputs.dataset",
    "compile_release": "pipeline",
    "finetune": "qat",
    "make_dataset": "inputs.dataset",
}


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` from its home, so that a child process which needs one module loads only that one."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
