"""Model files behind one port; the only code that runs a model file, for agent, hub and compiler alike.

models   the port, and requests of any number of rows      tensors  names, datatypes, quantization, text
litert   ai-edge-litert and tflite-runtime                 onnx     ONNX Runtime
prepared a release's front and steps before its file
errors   what can be wrong with a file              cost   what a request may cost, known before it is paid
run_costs how long a run will take, by those before

A runtime is imported and made when it is first asked for. Scheduling and batching stay with who uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

from fleet.protocol.manifest import Manifest, Ports, Tensor
from fleet.protocol.preprocessing import Pipeline
from fleet.runtimes import distributions
from fleet.runtimes.errors import InputError, ModelLoadError, RuntimeMissingError
from fleet.runtimes.models import LoadedModel, Options, Runtime
from fleet.runtimes.prepared import Before, FrontModel, Prepared

__all__ = [
    "RUNTIMES",
    "Before",
    "FrontModel",
    "InputError",
    "LoadedModel",
    "ModelLoadError",
    "Options",
    "Prepared",
    "Runtime",
    "RuntimeMissingError",
    "available",
    "before",
    "best",
    "kinds",
    "load",
    "load_release",
    "named",
]


@cache
def _litert() -> Runtime:
    from fleet.runtimes.litert import LiteRt

    return LiteRt()


@cache
def _tflite() -> Runtime:
    from fleet.runtimes.litert import TfLite

    return TfLite()


@cache
def _onnx() -> Runtime:
    from fleet.runtimes.onnx import OnnxRuntime

    return OnnxRuntime()


# distribution -> (importable module, kind of variant, extra that installs it, factory); best first
RUNTIMES: dict[str, tuple[str, str, str, Callable[[], Runtime]]] = {
    "ai-edge-litert": ("ai_edge_litert", "litert", "", _litert),
    "tflite-runtime": ("tflite_runtime", "litert", "tflite", _tflite),
    "onnxruntime": ("onnxruntime", "onnx", "onnx", _onnx),
}


def available() -> dict[str, str]:
    """Installed runtimes and their versions, without importing any."""
    here = {name: module for name, (module, *_) in RUNTIMES.items() if find_spec(module) is not None}
    return {name: distributions.distribution_version(name, module) for name, module in here.items()}


def kinds() -> frozenset[str]:
    """The kinds of variant that can be run here (`litert`, `onnx`)."""
    return frozenset(kind for module, kind, *_ in RUNTIMES.values() if find_spec(module) is not None)


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


def best(kind: str, proven: Sequence[str] = ()) -> Runtime:
    """The best installed runtime for a kind of variant; one that the variant was proven on goes before the others.

    Raises:
        RuntimeMissingError: none is installed; the hint names the extra.
    """
    fitting = [name for name, entry in RUNTIMES.items() if entry[1] == kind]
    fitting.sort(key=lambda name: bool(proven) and name not in proven)  # stable: best first
    for name in fitting:
        if find_spec(RUNTIMES[name][0]) is not None:
            return named(name)
    return named(fitting[0])


def load(
    runtime: Runtime,
    data: bytes,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    strict: bool = False,
    ports: Ports | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> LoadedModel:
    """A model from a file's bytes.

    Args:
        inputs, outputs: the manifest's.
        ports: which of the file's they are, where the variant says it.
        strict: the names of several inputs or outputs must be the file's; see `tensors.pair`.

    Raises:
        ModelLoadError: the runtime refuses the file, or its tensors are not the manifest's; without a runtime's name.
    """
    file = runtime.open(data, options)
    try:
        return file.model(inputs, outputs, strict=strict, ports=ports)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelLoadError(str(error)) from error


def load_release(
    runtime: Runtime,
    data: bytes,
    manifest: Manifest,
    *,
    strict: bool = False,
    ports: Ports | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
    front: bytes = b"",
) -> LoadedModel:
    """Load a release's model file, to be asked as its manifest says: behind its front and steps.

    Args and Raises as `load`; `front` are the bytes of the release's front, where it has one (`Manifest.in_front`).
    """
    pipeline = manifest.pipeline
    if pipeline is None:
        return load(runtime, data, manifest.inputs, manifest.outputs, strict=strict, ports=ports, options=options)
    model = load(runtime, data, pipeline.ready, manifest.outputs, strict=strict, ports=ports, options=options)
    return Prepared(model, before(pipeline, front))


def before(pipeline: Pipeline, front: bytes = b"") -> Before:
    """Load the steps that a release applies to raw tensors, with the file of its front from `front`.

    Raises ModelLoadError: no runtime here takes the front, or its tensors are not those that the release names.
    """
    described = pipeline.front
    if described is None:
        return Before(pipeline, None)
    taken = [tensor for name in described.inputs for tensor in pipeline.raw if tensor.name == name]
    try:
        model = load(best(described.runtime), front, taken, described.outputs, strict=len(taken) > 1)
    except (RuntimeMissingError, ModelLoadError) as error:
        raise ModelLoadError(f"the front: {error}", hint=error.hint) from error
    return Before(pipeline, FrontModel(model, described))
