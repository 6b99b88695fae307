"""Loaded cloud variants: made from verified bytes, with tensors that are the manifest's by name."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NoAnswerError, NotFoundError
from cloud_hub.trust.checks import cloud_variant
from fleet import runtimes
from fleet.protocol.asking import specs_of
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Manifest, Variant
from fleet.protocol.selftest import decode_vectors, from_array
from fleet.runtimes.models import CPU, LoadedModel, Options, cut, joined, shapes_of, unfair

log = logging.getLogger(__name__)

Values = dict[str, npt.NDArray[Any]]


class CloudModel(Protocol):
    """A model that answers requests, each as the manifest describes it."""

    @property
    def joins(self) -> bool:
        """True if requests of the same shapes, after the first dimension, may be joined by their rows."""
        ...

    def run(self, inputs: Values) -> dict[str, npt.NDArray[Any]]:
        """Answer; blocks.

        Raises:
            ProtocolError, InvalidError: the request's fault. NoAnswerError: the model's.
        """
        ...


class CloudVariant:
    """A model of `fleet.runtimes`, with the hub's errors."""

    def __init__(self, model: LoadedModel, manifest: Manifest, *, joins: bool) -> None:
        self._model, self._manifest, self._joins = model, manifest, joins

    @property
    def joins(self) -> bool:
        """See CloudModel."""
        return self._joins

    def run(self, inputs: Values) -> dict[str, npt.NDArray[Any]]:
        """See CloudModel."""
        try:
            return self._model.run(inputs)
        except ProtocolError:
            raise
        except Exception as error:  # a runtime raises what it likes; this boundary says whose fault it is
            reason = unfair(inputs, specs_of(inputs, self._manifest))
            if reason:
                raise InvalidError(reason, subject="inputs") from error
            raise NoAnswerError(f"the cloud variant failed: {error}", subject="model") from error


def load_cloud(hub: Hub, manifest: Manifest) -> CloudModel:
    """One of `load_lanes`."""
    return load_lanes(hub, manifest)[0]


def load_lanes(hub: Hub, manifest: Manifest) -> list[CloudModel]:
    """The first ONNX cloud variant of a release, its bytes checked against the signed hash: what can run at one time.

    On the CPU that is one session as often as there are cores, since a session may run in several threads; of other
    devices (`devices` under `[inference]`) one session on each.

    Raises NotFoundError (no such variant, or its blob is gone), InvalidError (damaged, does not load, keeps
    weights in other files, or has other inputs and outputs than the manifest).
    """
    variant = cloud_variant(manifest)
    if variant is None:
        raise NotFoundError("the release has no cloud variant", subject="model", hint="compile it with --cloud")
    data, front = _blob(hub, variant.blob.sha256), manifest.in_front
    before = _blob(hub, front.blob.sha256) if front is not None else b""
    lanes: list[CloudModel] = []
    joins: bool | None = None
    for device in hub.config.inference.devices:
        model = _load(data, manifest, device, before)
        if joins is None:
            joins = model.joins and _joins(hub, manifest, variant, model)
        times = cores() if device == CPU else 1
        lanes += [CloudVariant(model, manifest, joins=joins)] * times
    return lanes


def cores() -> int:
    """Count the threads of this process that can run at one time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(data: bytes, manifest: Manifest, device: str, front: bytes) -> LoadedModel:
    options = Options(device=device)
    try:
        runtime = runtimes.named("onnxruntime")
        return runtimes.load_release(runtime, data, manifest, strict=True, options=options, front=front)
    except runtimes.ModelLoadError as error:
        raise InvalidError(f"the cloud variant does not load: {error}", subject="model", hint=error.hint) from error


def _blob(hub: Hub, sha256: str) -> bytes:
    data = hub.objects.get(f"blobs/{sha256}").data
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidError(f"blob {sha256} is damaged in the store", subject=sha256)
    return data


def _joins(hub: Hub, manifest: Manifest, variant: Variant, model: LoadedModel) -> bool:
    """Tell whether two golden requests, asked together, get the answers that they get alone.

    A file with a variable first dimension need not count samples there: it may be a sequence whose elements are
    weighed against each other. Then joined requests would change each other's answers. A release whose vectors do
    not say is taken at its word.
    """
    try:
        vectors = decode_vectors(_blob(hub, manifest.selftest.blob.sha256))
    except ProtocolError:
        return True
    requests = [{array.name: from_array(array) for array in vector.inputs} for vector in vectors]
    pair = [request for request in requests if shapes_of(request) == shapes_of(requests[0])][:2]
    if len(pair) < 2:
        return True
    found = same_joined(model, pair, _tolerances(manifest, variant))
    if not found:
        log.info("cloud variant %s: requests are not joined, they would change each other's answers", variant.name)
    return found


def _tolerances(manifest: Manifest, variant: Variant) -> Mapping[str, float]:
    known = manifest.selftest.tolerance
    keys = {out.name: (f"{variant.name}:{out.name}", variant.name, out.name) for out in manifest.outputs}
    return {name: next((known[key] for key in tried if key in known), 1e-3) for name, tried in keys.items()}


def same_joined(model: LoadedModel, requests: Sequence[Values], tolerance: Mapping[str, float]) -> bool:
    """Tell whether requests asked as one get the same answers as alone, each output within its tolerance (absolute)."""
    try:
        alone = [model.run(request) for request in requests]
        together = cut(model.run(joined(requests)), [len(next(iter(request.values()))) for request in requests])
    except Exception as error:  # noqa: BLE001 (a runtime raises what it likes; then they are asked one by one)
        log.info("joined requests fail: %s", error)
        return False
    return all(
        _near(one[name], other[name], limit)
        for one, other in zip(alone, together, strict=True)
        for name, limit in tolerance.items()
    )


def _near(one: npt.NDArray[Any], other: npt.NDArray[Any], limit: float) -> bool:
    if one.shape != other.shape or one.dtype.kind == "O":
        return one.shape == other.shape and bool((one == other).all())
    return bool(np.allclose(one.astype(np.float64), other.astype(np.float64), rtol=0.0, atol=limit, equal_nan=True))
