"""From judged variants to a manifest and its blobs, tried in every runtime that it claims."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

from fleet.protocol import manifest_detail
from fleet.protocol.drift_encoder import CAPABILITY as SKETCH_GAPS
from fleet.protocol.drift_encoder import GAPS, decode_encoder
from fleet.protocol.finite import CAPABILITY, is_finite, not_finite
from fleet.protocol.interface import Interface, interface_of
from fleet.protocol.manifest import Lineage, Manifest, SelfTest, SketchRef, Tensor, Variant
from fleet.protocol.preprocessing import required_by
from fleet.protocol.task import CLASSIFICATION, TaskSpec
from fleet.protocol.tensor_spec import VARIABLE_OUTPUTS
from model_compiler.errors import CompilerError, GateError
from model_compiler.evaluate import tasking
from model_compiler.evaluate.judging import Judged
from model_compiler.inputs.dataset import Array, Dataset
from model_compiler.inputs.naming import check_encoder, check_kept, tensor_of
from model_compiler.inputs.preprocessing import NO_STEPS, Preparation
from model_compiler.inputs.release_folder import blob_of
from model_compiler.inputs.request import CompileRequest, non_finite_of
from model_compiler.metrics import Metric, first
from model_compiler.package import drift_reference, preflight, vectors

TOOLS = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class Parts:
    """The parts of a release beside the judged variants: what was asked for, and data as applications send it.

    `background` is what drift is compared with, `held_out` gives its margin; self-test vectors are of `validation`.
    """

    request: CompileRequest
    metric: Metric
    background: Dataset
    held_out: Dataset
    validation: Dataset
    preparation: Preparation = NO_STEPS

    @property
    def interface(self) -> Interface | None:
        """The interface that an existing model's applications rely on."""
        return self.request.interface

    @property
    def task(self) -> TaskSpec | None:
        """None for a classification, or no task."""
        return tasking.task_of(self.request)

    def class_names(self) -> tuple[str, ...]:
        """Those given, else the model's."""
        return tuple(self.request.labels) or (self.interface.labels if self.interface is not None else ())


def assemble(parts: Parts, kept: Sequence[Judged]) -> tuple[Manifest, list[bytes]]:
    """The manifest, with no runtime claimed yet, and all its blobs.

    Raises:
        CompilerError: the labels do not fit the classes.
        DataError: the model's own encoder cannot be used with so little data.
        InterfaceError: the release differs from the model's interface.
    """
    outputs, steps = kept[0].ran.outputs, parts.preparation.steps
    selftest, data = _selftest(parts, kept)
    drift, drift_data = _drift(parts)
    gaps = bool(drift_data) and decode_encoder(drift_data[0]).schema == GAPS
    front = parts.preparation.described
    inputs = _tensors(parts, parts.validation.inputs, kept, "input")
    profile_data = drift_reference.profile(parts.background.inputs, inputs, parts.request.features)
    manifest = Manifest(
        requires=(*required_by(steps, front), *((SKETCH_GAPS,) if gaps else ()), *_sized(kept)),
        preprocess=steps or msgspec.UNSET,
        front=front or msgspec.UNSET,
        inputs=inputs,
        outputs=_tensors(parts, outputs, kept, "output"),
        labels=_labels(parts, first(outputs)),
        variants=tuple(item.variant() for item in kept),
        selftest=selftest,
        sketch=drift,
        profile=blob_of(profile_data),
        gate=parts.request.gate,
        lineage=_lineage(parts.request),
    )
    manifest = tasking.named(_allowing(manifest, parts, kept), parts.task)
    if parts.interface is not None:
        check_kept(parts.interface, interface_of(manifest))
    files = [item.ran.artifact.model for item in kept]
    files += [parts.preparation.front.data] if parts.preparation.front is not None else []
    return manifest, [*files, data, *drift_data, profile_data]


def _selftest(parts: Parts, kept: Sequence[Judged]) -> tuple[SelfTest, bytes]:
    """The self-test section and its vectors' blob; inputs that the release before asks are asked again."""
    first_ran, former = kept[0].ran, parts.request.before()
    ranks = parts.metric.classes and first(first_ran.outputs).ndim <= 2
    sizes = {(item.name, name): found for item in kept for name, found in item.ran.sizes.items()}
    section, _, data = vectors.build(
        parts.validation,
        {item.name: item.ran.outputs for item in kept},
        tasking.groups_of(parts.task, parts.class_names(), first_ran.outputs, classes=ranks),
        vectors.Rows(first_ran.profile.sliced, first_ran.profile.batched, sizes),
        classes=parts.metric.classes,
        least=tasking.least_agreement(parts.task),
        former=former.vectors if former is not None else (),
    )
    return section, data


def _sized(kept: Sequence[Judged]) -> tuple[str, ...]:
    """The capability of agents that take answers of another size for each request, where a variant gives them."""
    sized = any(item.ran.profile.added or item.ran.sizes for item in kept)
    return (VARIABLE_OUTPUTS,) if sized else ()


def _lineage(request: CompileRequest) -> Lineage:
    """As it was given, with the tools of this machine."""
    given = request.lineage
    return msgspec.structs.replace(given, tools={**given.tools, **tool_versions()}, seed=request.seed)


def _allowing(manifest: Manifest, parts: Parts, kept: Sequence[Judged]) -> Manifest:
    """The manifest with those tensors that may hold NaN and infinity.

    Agents that cannot compare golden answers with such values are not offered a release that may have them.
    """
    names = parts.request.loose()
    known = {tensor.name for tensor in (*manifest.inputs, *manifest.outputs)}
    unknown = sorted(set(names) - known - non_finite_of(parts.interface))  # what an interface lost is said below
    if unknown:
        raise CompilerError(
            f"there is no input or output {unknown[0]!r} that may be non-finite; there are {', '.join(sorted(known))}"
        )
    inputs, outputs = (
        tuple(msgspec.structs.replace(t, finite=t.finite and t.name not in names) for t in tensors)
        for tensors in (manifest.inputs, manifest.outputs)
    )
    broken = not_finite("input", parts.validation.inputs, inputs)
    if broken:
        raise CompilerError(f"the validation set's {broken}", hint="a model that means it: --non-finite NAME")
    answers = [array for item in kept for array in item.ran.outputs.values()]
    needs = () if all(map(is_finite, answers)) else (CAPABILITY,)
    return msgspec.structs.replace(manifest, inputs=inputs, outputs=outputs, requires=(*manifest.requires, *needs))


def _tensors(parts: Parts, arrays: Mapping[str, Array], kept: Sequence[Judged], kind: str) -> tuple[Tensor, ...]:
    # The files do not know what lies before front and steps; these work on rows.
    raw = kind == "input" and (bool(parts.preparation.steps) or parts.preparation.front is not None)
    return tuple(
        tensor_of(
            name,
            array,
            (-1, *array.shape[1:]) if raw else _shape(name, place, array, kept, kind),
            parts.interface,
            kind,
        )
        for place, (name, array) in enumerate(arrays.items())
    )


def _shape(name: str, place: int, array: Array, kept: Sequence[Judged], kind: str) -> tuple[int, ...]:
    """The shape of an input or output that every kept file takes: a size is variable where it is so in all of them."""
    profile = kept[0].ran.profile
    rows = profile.batched if kind == "output" else name in profile.sliced
    shape = (-1 if profile.batched else 1, *array.shape[1:]) if rows else array.shape[1:]
    files = []
    for item in kept:
        found = item.ran.profile.inputs if kind == "input" else item.ran.profile.outputs
        by_name = {tensor.plain_name: tensor for tensor in found} | {tensor.name: tensor for tensor in found}
        own = by_name.get(name, found[place]).shape
        added = kind == "output" and item.ran.profile.added and own is not None
        files.append((shape[0], *own) if added and own is not None else own)
    if any(own is None or len(own) != len(shape) for own in files):
        return shape
    if kind == "output" and any(item.ran.profile.added or item.ran.sizes for item in kept):  # as many as one finds
        return tuple(-1 if any(own[axis] == -1 for own in files if own) else size for axis, size in enumerate(shape))
    return tuple(-1 if all(own[axis] == -1 for own in files if own) else size for axis, size in enumerate(shape))


def _labels(parts: Parts, scores: Array) -> tuple[str, ...]:
    """The class names: those given, else the model's, else numbers. A single score column has no classes to name."""
    if parts.task is not None and parts.task.name != CLASSIFICATION:  # which says itself what class names it needs
        return parts.class_names()
    if not parts.metric.classes or scores.ndim != 2 or scores.shape[1] < 2:
        if parts.request.labels:
            raise CompilerError("--labels needs a metric of classes and an output of shape (n, classes)")
        return ()
    labels = parts.class_names() or tuple(str(number) for number in range(scores.shape[1]))
    if len(labels) != scores.shape[1]:
        raise CompilerError(f"there are {len(labels)} labels, the model has {scores.shape[1]} classes")
    return labels


def _drift(parts: Parts) -> tuple[SketchRef | None, list[bytes]]:
    """The drift section: by the model's own encoder, else by a new one of the first input of real numbers, else of
    other numbers, else of text.

    A new model gets none where there is too little to compare; one that is watched already never loses it silently.
    """
    encoder = parts.request.encoder
    if encoder is not None:
        check_encoder(encoder, parts.background.inputs)
        name = encoder.tensor or next(iter(parts.background.inputs))
        if parts.request.watch not in ("", name):
            raise CompilerError(
                f"the model's drift is watched on input {name!r}, and stays so: {parts.request.watch!r} was asked for",
                hint="leave --watch out; another input is a new model name, or monitoring ends (--end-monitoring)",
            )
        background, held_out = (part.inputs[name] for part in (parts.background, parts.held_out))
        return drift_reference.build(background, held_out, tensor=name, encoder=encoder, seed=parts.request.seed)
    for name, background in _watchable(parts):
        held_out = parts.held_out.inputs[name]
        gaps = background.dtype.kind == "f" and name in parts.request.loose()
        if drift_reference.possible(background, held_out, gaps=gaps):
            return drift_reference.build(
                background, held_out, tensor=name, encoder=None, seed=parts.request.seed, gaps=gaps
            )
    return None, []


def _watchable(parts: Parts) -> list[tuple[str, Array]]:
    """The inputs that a new encoder may be of, the best first: the one that was asked for, or all.

    Raises CompilerError when there is no input of the name that was asked for.
    """
    inputs, asked = parts.background.inputs, parts.request.watch
    if not asked:
        return sorted(inputs.items(), key=lambda item: _telling(item[1]))
    if asked not in inputs:
        raise CompilerError(f"there is no input {asked!r} to watch", hint=f"--watch one of {', '.join(inputs)}")
    return [(asked, inputs[asked])]


def _telling(array: Array) -> int:
    """The place of an input's kind among those that a sketch may watch."""
    if array.dtype.kind == "f" or array.dtype == np.int8:  # the latter are quantized real numbers
        return 0
    return 2 if array.dtype.kind == "O" else 1


def preflighted(
    manifest: Manifest, blobs: Sequence[bytes], pythons: Sequence[Path], progress: Callable[[str], None]
) -> tuple[Manifest, dict[str, dict[str, str]]]:
    """Try each variant in the runtimes at hand, and drop one that none of them takes.

    Args:
        manifest: of the release in the making.
        blobs: its files.
        pythons: interpreters whose runtimes are tried, beside this one.
        progress: called with a line before each variant.

    Returns:
        The manifest with the runtimes that took each variant, and by variant the words of each runtime that refused it.

    Raises:
        GateError: no edge variant is left.
    """
    places = preflight.places(pythons)
    kept: list[Variant] = []
    refusals: dict[str, dict[str, str]] = {}
    for variant in manifest.variants:
        progress(f"preflight of {variant.name}")
        words = {
            place.runtime: preflight.refusal(manifest, variant, blobs, place)
            for place in places
            if place.kind == variant.runtime
        }
        refusals[variant.name] = {runtime: why for runtime, why in words.items() if why}
        taken = tuple(runtime for runtime, why in words.items() if not why)
        if taken:
            kept.append(msgspec.structs.replace(variant, runtimes=taken))
    if not any(variant.placement == "edge" for variant in kept):
        said = "; ".join(f"{n}: {r} refuses it: {why}" for n, found in refusals.items() for r, why in found.items())
        raise GateError(f"no variant passes the self-test: {said}")
    return msgspec.structs.replace(manifest, variants=tuple(kept)), refusals


def for_devices(manifest: Manifest, blobs: Sequence[bytes], target: str = "") -> tuple[Manifest, list[bytes]]:
    """Return the manifest as it is published, and all blobs that it lists: the details that no device needs are one of
    them.

    `target` is that of deferral, in words, as it was asked for.
    """
    detail = manifest_detail.encode_detail(manifest_detail.detail_of(manifest, target))
    bare = manifest_detail.without_detail(manifest, blob_of(detail))
    wanted = {blob.sha256 for blob in bare.blobs()}
    return bare, [data for data in (*blobs, detail) if blob_of(data).sha256 in wanted]


def tool_versions() -> dict[str, str]:
    """The version of every tool that shapes a release, and of Python."""
    versions = {"python": platform.python_version()}
    for name in TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
