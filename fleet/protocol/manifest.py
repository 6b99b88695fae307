"""The release manifest: what a release contains and what the compiler proved of it.

A manifest is the TUF target `models/<model>/<n>.json`; that signed path binds model and number, so the manifest holds
neither. Blobs are listed by SHA-256 and size and trusted through the manifest.
"""

from __future__ import annotations

from math import inf
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from fleet.protocol.blob import Blob as Blob
from fleet.protocol.blob import check_blob as check_blob
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import MalformedError, UnsupportedError, VersionError
from fleet.protocol.front import Front
from fleet.protocol.preprocessing import Pipeline
from fleet.protocol.steps import AnyStep
from fleet.protocol.task import TaskSpec, implied
from fleet.protocol.tensor_spec import Tensor as Tensor

MANIFEST_LIMIT = 1 << 20  # bytes
SCHEMA = 1

Runtime = Literal["litert", "onnx"]
Precision = Literal["fp32", "int8", "int8-dynamic"]
Placement = Literal["edge", "cloud"]


class Verdict(Struct, frozen=True, kw_only=True):
    """The compiler's measurements of one variant, on data it never calibrated on.

    `value` and `reference` are in the metric's own unit; `agreement` and `worst_class_drop` are
    fractions in [0, 1]. `drop_points` is (reference - value) in percentage points, or, for a metric
    where lower is better, the percentage by which the error grew. Latencies are microseconds at
    batch 1, and `latency_ratio` is this variant's p50 over the fp32 variant's in the same interleaved
    run. `peak_memory_bytes` is what loading and one answer added to the process at most. `drop_bound` is what the drop
    is at most, with 95 % confidence; left out where the gate does not ask for it.
    """

    metric: str
    value: float
    interval: tuple[float, float]
    reference: float
    drop_points: float
    agreement: float
    worst_class_drop: float
    samples: int
    size_bytes: int
    latency_us_p50: float
    latency_us_p95: float
    latency_ratio: float
    notes: tuple[str, ...] = ()
    higher_is_better: bool = True
    load_ms: float = 0.0
    peak_memory_bytes: int = 0
    drop_bound: float | UnsetType = UNSET


class Gate(Struct, frozen=True, kw_only=True):
    """The terms a variant had to meet; None means no term. Hub and agent check them again.

    `min_metric` is the least value allowed, or the largest where lower is better. `judged_by` says what of the metric
    and of the drop has to keep its term: the `point`, or the end of its interval that is worse (`bound`). Agents of 0.1
    know the point alone.
    """

    max_drop_points: float | None = None
    min_metric: float | None = None
    min_agreement: float | None = None
    max_class_drop: float | None = None
    max_latency_ratio: float | None = None
    judged_by: Literal["point", "bound"] | UnsetType = UNSET

    @property
    def by_bound(self) -> bool:
        """True if the end of an interval has to keep the terms."""
        return self.judged_by == "bound"

    def broken_by(self, verdict: Verdict) -> list[str]:
        """Each term that `verdict` breaks, in plain words; empty when the gate holds."""
        drop, value, most = verdict.drop_points, verdict.value, ""
        if self.by_bound:
            # Without a bound nothing is shown: a verdict of another gate's release keeps no term.
            drop = verdict.drop_bound if isinstance(verdict.drop_bound, float) else inf
            value, most = verdict.interval[0 if verdict.higher_is_better else 1], " with 95 % confidence"
        terms = (
            (f"drop in points{most}", drop, self.max_drop_points, True),
            (f"{verdict.metric}{most}", value, self.min_metric, not verdict.higher_is_better),
            ("agreement", verdict.agreement, self.min_agreement, False),
            ("worst class drop", verdict.worst_class_drop, self.max_class_drop, True),
            ("latency ratio", verdict.latency_ratio, self.max_latency_ratio, True),
        )
        return [
            f"{name} is {value:.4g}, {'at most' if upper else 'at least'} {limit:.4g} is allowed"
            for name, value, limit, upper in terms
            if limit is not None and not (value <= limit if upper else value >= limit)
        ]


class DeferralPoint(Struct, frozen=True, kw_only=True):
    """One point of the deferral curve: all are fractions in [0, 1], the intervals 95 % ones."""

    threshold: float
    cloud_share: float
    edge_accuracy: float
    combined_accuracy: float
    edge_interval: tuple[float, float] = (0.0, 1.0)
    combined_interval: tuple[float, float] = (0.0, 1.0)


class Deferral(Struct, frozen=True, kw_only=True):
    """Calibration fitted for one variant after quantization; see `fleet.protocol.confidence`.

    `target` holds with confidence `level` for inputs exchangeable with the compiler's evaluation rows, and for no
    others; it is empty where none could be promised. A level of 0.0: chosen on the rows that it was read from (0.1).
    """

    temperature: float
    threshold: float
    target: str
    level: float = 0.0
    curve: tuple[DeferralPoint, ...] = ()


class Ports(Struct, frozen=True, kw_only=True):
    """The places of the release's inputs and outputs among those of a model file, by name, from 0."""

    inputs: dict[str, int]
    outputs: dict[str, int]


class Variant(Struct, frozen=True, kw_only=True):
    """One artifact of a release for a runtime and a precision.

    `ports` is recorded where the file itself does not call its inputs and outputs as the release does: LiteRT's
    converters number them. Without it, and without such names, they are paired in the file's order: releases of 0.1
    rely on that, and their self-test proves it. `apply_softmax` says whether the (only or first) output holds logits.
    `runtimes` are the implementations it was loaded and run on (`ai-edge-litert`, `tflite-runtime`, `onnxruntime`).
    """

    name: str
    runtime: Runtime
    precision: Precision
    placement: Placement
    blob: Blob
    verdict: Verdict
    apply_softmax: bool = True
    deferral: Deferral | None = None
    runtimes: tuple[str, ...] = ()
    ports: Ports | UnsetType = UNSET
    twin: bool | UnsetType = UNSET  # a cloud variant answers as the edge variants' float model does; unset: not told


class SelfTest(Struct, frozen=True, kw_only=True):
    """Golden vectors in a blob (format: `fleet.protocol.selftest`).

    A variant passes when every output lies within `tolerance` (absolute, on the outputs as stored;
    keyed by `VARIANT:OUTPUT`, by variant, or by output) and at least `min_agreement` of the vectors
    keep the arg-max class of the first output.
    """

    blob: Blob
    vectors: int
    tolerance: dict[str, float]
    min_agreement: float = 1.0


class SketchRef(Struct, frozen=True, kw_only=True):
    """The drift sketch: the model name's fixed encoder and the training-fit reference."""

    sketch_id: str
    encoder: Blob
    reference: Blob
    margin: float


class Lineage(Struct, frozen=True, kw_only=True):
    """The origin of the release."""

    snapshot: str = ""
    recipe: str = ""
    parents: tuple[str, ...] = ()
    tools: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


class Manifest(Struct, frozen=True, kw_only=True):
    """A release. `labels` are the class names in output order; empty for a model without classes.

    `inputs` are what applications send; `front` and then `preprocess`, a model file and steps, make of them what the
    model files take. `task` is left out of a classification, and these two where there are none, so that the bytes are
    those of 0.1; see `named_task` and `pipeline`. `detail` is a blob for people (`fleet.protocol.manifest_detail`) and
    `profile` one for the hub, which sums up the training inputs (`figures.TrainingProfile`): no device fetches them.
    """

    schema: int = SCHEMA
    requires: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...] = ()
    variants: tuple[Variant, ...]
    selftest: SelfTest
    sketch: SketchRef | None = None
    gate: Gate = Gate()
    lineage: Lineage = Lineage()
    task: TaskSpec | UnsetType = UNSET
    preprocess: tuple[AnyStep, ...] | UnsetType = UNSET
    front: Front | UnsetType = UNSET
    detail: Blob | UnsetType = UNSET
    profile: Blob | UnsetType = UNSET

    @property
    def in_front(self) -> Front | None:
        """The model file in front of the steps and the model files; None without."""
        return self.front if isinstance(self.front, Front) else None

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        """The steps between what applications send, or the front makes, and what the model files take."""
        return self.preprocess if isinstance(self.preprocess, tuple) else ()

    @property
    def pipeline(self) -> Pipeline | None:
        """Front and steps bound to the inputs, made anew; None without any. Raises MalformedError where they do not
        fit."""
        front = self.in_front
        return Pipeline(self.steps, self.inputs, front=front) if self.steps or front is not None else None

    @property
    def ready(self) -> tuple[Tensor, ...]:
        """The tensors that the model files take: the inputs themselves where there are no steps."""
        pipeline = self.pipeline
        return self.inputs if pipeline is None else pipeline.ready

    @property
    def named_task(self) -> TaskSpec | None:
        """The task: as it says, else a classification where it has class names; else None, nobody scores it."""
        return self.task if isinstance(self.task, TaskSpec) else implied(self.labels)

    def variant(self, name: str) -> Variant:
        """The variant called `name`; raises MalformedError when there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise MalformedError(f"the release has no variant {name!r}", subject=name)

    def placed(self, placement: Placement) -> tuple[Variant, ...]:
        """The variants for the edge or for the cloud, in the publisher's order of preference."""
        return tuple(v for v in self.variants if v.placement == placement)

    def blobs(self, variants: tuple[Variant, ...] | None = None) -> tuple[Blob, ...]:
        """Every blob that `variants` come with, each once; by default those of all, the detail and the profile."""
        chosen = self.variants if variants is None else variants
        found = [v.blob for v in chosen] + self._beside()
        if self.sketch is not None:
            found.append(self.sketch.reference)
        if variants is None:
            found += [blob for blob in (self.detail, self.profile) if isinstance(blob, Blob)]
        return tuple({blob.sha256: blob for blob in found}.values())

    def needed_for(self, variant: Variant) -> tuple[Blob, ...]:
        """Return the blobs that a device fetches and keeps to serve `variant`, each once.

        The sketch of the training fit is not among it, since the hub alone shows it; agents of 0.1 fetch it all the
        same.
        """
        return tuple({blob.sha256: blob for blob in (variant.blob, *self._beside())}.values())

    def _beside(self) -> list[Blob]:
        """Return the blobs that serve beside a variant's own file: self-test, front and encoder."""
        found = [self.selftest.blob]
        if self.in_front is not None:
            found.append(self.in_front.blob)
        if self.sketch is not None:
            found.append(self.sketch.encoder)
        return found


class Floor(Struct, frozen=True, kw_only=True):
    """`models/<model>/floor.json`: no agent installs below it."""

    schema: int = SCHEMA
    min_release: int = 1
    withdrawn: tuple[int, ...] = ()

    def forbids(self, release: int) -> str:
        """Return why `release` may not be installed, or an empty string."""
        if release < self.min_release:
            return f"release {release} is below the floor {self.min_release}"
        if release in self.withdrawn:
            return f"release {release} was withdrawn"
        return ""


class _Requirements(Struct, frozen=True, kw_only=True):
    """The part of a document that is read before its meaning."""

    requires: tuple[str, ...] = ()


def check_required(data: bytes, capabilities: frozenset[str], *, limit: int, subject: str) -> None:
    """Raise UnsupportedError when the JSON document in `data` requires what is missing here.

    It is asked before the document is decoded as a whole: what a later version says in it, such as a precision of
    its own, is then `unsupported:<name>` and not malformed.
    """
    check_requires(decode_json(data, _Requirements, limit=limit, subject=subject).requires, capabilities)


def decode_manifest(data: bytes, capabilities: frozenset[str] | None = None) -> Manifest:
    """Decode and check a manifest (at most 1 MiB).

    Args:
        data: JSON.
        capabilities: what the reader understands; None reads a manifest whatever it requires.

    Raises:
        TooLargeError, MalformedError: not a valid manifest.
        UnsupportedError: it requires what is missing here.
        VersionError: an unknown schema.
    """
    if capabilities is not None:
        check_required(data, capabilities, limit=MANIFEST_LIMIT, subject="manifest")
    manifest = decode_json(data, Manifest, limit=MANIFEST_LIMIT, subject="manifest")
    if manifest.schema != SCHEMA:
        raise VersionError(f"manifest schema {manifest.schema} is unknown here", subject="manifest")
    if not manifest.variants or not manifest.inputs or not manifest.outputs:
        raise MalformedError("a manifest needs variants, inputs and outputs", subject="manifest")
    if len({v.name for v in manifest.variants}) != len(manifest.variants):
        raise MalformedError("two variants have the same name", subject="manifest")
    for blob in manifest.blobs():
        check_blob(blob)
    _ = manifest.pipeline  # its steps fit its inputs, and are bounded
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes of a manifest: equal manifests give equal bytes."""
    return encode_json(manifest)


def check_requires(requires: tuple[str, ...], capabilities: frozenset[str]) -> None:
    """Raise UnsupportedError (`unsupported:<name>`) for the first capability that is missing."""
    for name in requires:
        if name not in capabilities:
            raise UnsupportedError(f"unsupported:{name}", subject=name, hint="update the agent on this device")
