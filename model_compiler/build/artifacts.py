"""From a source to model files: one artifact for every target that can be reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.protocol.manifest import Placement, Runtime
from model_compiler.build.prepared import Prepared
from model_compiler.build.targets import TARGETS, Quantizer, VariantTarget
from model_compiler.errors import TargetError
from model_compiler.inputs import sources
from model_compiler.running.runner import ALL, Wanted

if TYPE_CHECKING:
    pass

CLOUD = "cloud-onnx-fp32"


@dataclass(frozen=True)
class Artifact:
    """A model file. `notes` say how it was made where that is not the ordinary way; `wanted` is what of its answers the
    release has."""

    name: str
    target: VariantTarget
    placement: Placement
    model: bytes
    notes: tuple[str, ...] = ()
    wanted: Wanted = ALL


def build(prepared: Prepared) -> tuple[list[Artifact], dict[str, str]]:
    """Every target that can be built, plus the float models they are judged against, and why others cannot.

    Raises:
        TargetError: a target is unknown, or not one could be built.
    """
    request = prepared.request
    unknown = [target for target in request.targets if target not in TARGETS]
    if unknown or not request.targets:
        raise TargetError(f"unknown target {', '.join(unknown) or '(none)'}", hint=f"known: {', '.join(TARGETS)}")
    made: dict[str, Artifact] = {}
    left_out: dict[str, str] = {}
    # Float variants first: the quantized ones are made from them.
    wanted = set(request.targets) | {f"{TARGETS[target].runtime}-fp32" for target in request.targets}
    for name in sorted(wanted, key=lambda n: (TARGETS[n].precision != "fp32", n)):
        request.progress(f"building {name}")
        try:
            made[name] = Artifact(name, TARGETS[name], "edge", _model(prepared, name, made), prepared.notes)
        except TargetError as error:
            left_out[name] = str(error)
    if not any(name in made for name in request.targets):
        raise TargetError("no target could be built: " + "; ".join(left_out.values()))
    artifacts = list(made.values())
    if prepared.cloud is not None:
        artifacts.append(Artifact(CLOUD, TARGETS["onnx-fp32"], "cloud", prepared.cloud))
    return artifacts, {name: why for name, why in left_out.items() if name in request.targets}


def _model(prepared: Prepared, name: str, made: dict[str, Artifact]) -> bytes:
    target = TARGETS[name]
    if target.precision != "fp32":
        parent = made.get(f"{target.runtime}-fp32")
        if parent is None:
            raise TargetError(f"{name}: its float model could not be built", subject=name)
        return quantizer(target.runtime).quantize(parent.model, target.precision, prepared.calibration.inputs)
    return float_model(prepared, name)


def float_model(prepared: Prepared, name: str) -> bytes:
    """The float file for a target's runtime; raises TargetError when the source cannot become one."""
    from model_compiler.build import litert, onnx

    target = TARGETS[name]
    if prepared.module is None:
        if target.runtime == "onnx" and prepared.onnx is not None:
            return prepared.onnx
        raise TargetError(
            f"{name}: an ONNX source cannot become a LiteRT model",
            subject=name,
            hint="compile the torch module that it was exported from (.pt2, or file.py:factory); or convert it, as "
            "onnx2tf does, and import the .tflite; or build for ONNX: --target onnx-int8",
        )
    examples = tuple(sources.example_of(array) for array in prepared.validation.inputs.values())
    if target.runtime == "litert":
        return litert.convert(prepared.module, examples)
    return onnx.export(prepared.module, examples, inputs=tuple(prepared.validation.inputs), outputs=prepared.outputs)


def quantizer(runtime: Runtime) -> Quantizer:
    """The module for a runtime; loaded here, since it is heavy."""
    from model_compiler.build import litert, onnx

    return litert if runtime == "litert" else onnx


def order(artifacts: Sequence[Artifact], targets: Sequence[str]) -> list[Artifact]:
    """Those that were asked for, in that order, the cloud's last."""
    rank = {name: place for place, name in enumerate([*targets, CLOUD])}
    return sorted((a for a in artifacts if a.name in rank), key=lambda a: rank[a.name])


def float_bases(artifacts: Sequence[Artifact]) -> dict[str, str]:
    """For every edge artifact the float one on the same runtime: against it, only quantization differs."""
    return {a.name: f"{a.target.runtime}-fp32" for a in artifacts if a.placement == "edge"}
