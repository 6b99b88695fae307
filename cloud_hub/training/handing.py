"""The hub's side of a retrain's work: everything that it needs, as files in a folder (see `handed`)."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.objects import blob_key
from cloud_hub.samples import snapshots
from cloud_hub.samples.dataset import encode_dataset
from cloud_hub.training.checking import Contract
from cloud_hub.training.handed import (
    CURRENT,
    CURRENT_FILES,
    CURRENT_FRONT,
    CURRENT_MODEL,
    ENCODER,
    FIXED,
    NETWORKS,
    SNAPSHOT,
    best_of,
    holder_of,
    weights_file,
    words,
)
from cloud_hub.trust.checks import Current
from fleet.protocol.drift_encoder import Encoder, decode_encoder
from fleet.protocol.errors import ProtocolError
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Blob, Manifest, encode_manifest
from model_compiler.inputs.former_release import wanted_of


def hand_in(
    hub: Hub, model: str, folder: Path, snapshot: str, fixed: Current | None, current: tuple[int, Manifest] | None
) -> None:
    """Write the folder.

    Args:
        model: the model's name.
        snapshot: the snapshot's id.
        fixed: the release that fixes the model's interface; None for a model without one.
        current: number and manifest of the release that devices come from; None without any.

    Raises:
        InvalidError: a blob of a release is not to be had, or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SNAPSHOT).write_bytes(encode_dataset(snapshots.load(hub, snapshot)))
    if fixed is not None:
        (folder / FIXED).write_bytes(encode_manifest(fixed.manifest))
        if fixed.manifest.sketch is not None:
            (folder / ENCODER).write_bytes(_blob(hub, fixed.manifest.sketch.encoder, f"of release {fixed.number}"))
    if current is not None:
        number, manifest = current
        (folder / CURRENT).write_bytes(encode_manifest(manifest))
        (folder / CURRENT_MODEL).write_bytes(_blob(hub, best_of(manifest).blob, f"of release {number}"))
        _hand_files(hub, number, manifest, folder / CURRENT_FILES)
        if manifest.in_front is not None:
            (folder / CURRENT_FRONT).write_bytes(_blob(hub, manifest.in_front.blob, f"of release {number}"))
        for network in NETWORKS:
            _hand_weights(hub, model, number, manifest, network, folder / weights_file(network))


def _hand_files(hub: Hub, number: int, manifest: Manifest, folder: Path) -> None:
    """Write what devices hold of a release; of another one, which a worker before this one was given, nothing stays."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for blob in wanted_of(manifest):
        (folder / blob.sha256).write_bytes(_blob(hub, blob, f"of release {number}"))


def _hand_weights(hub: Hub, model: str, number: int, manifest: Manifest, network: str, path: Path) -> None:
    """Write the weights that a job has kept; of a release that no job made, its own file that holds them. Those of
    another release go, which a worker before this one was given."""
    file = path.with_name(f"{path.name}.onnx")
    for stale in (path, file):
        stale.unlink(missing_ok=True)
    with contextlib.suppress(NotFoundError):
        path.write_bytes(hub.objects.get(_weights_key(model, number, network)).data)
        return
    variant = holder_of(manifest, network)
    if variant is not None:
        file.write_bytes(_blob(hub, variant.blob, f"of release {number}"))


def keep_weights(hub: Hub, model: str, number: int, folder: Path) -> None:
    """Keep the weights that the work left in `folder`, for a retrain that starts from release `number`."""
    for network in NETWORKS:
        path = folder / f"{network}.safetensors"
        if path.is_file():
            hub.objects.put_file(_weights_key(model, number, network), path)


def check_encoder(hub: Hub, model: str, current: Current | None) -> Encoder | None:
    """The encoder of the sketch that the model's releases share; None without a release or a sketch.

    Raises InvalidError when it is not to be had.
    """
    if current is None or current.manifest.sketch is None:
        return None
    try:
        return decode_encoder(hub.objects.get(blob_key(current.manifest.sketch.encoder.sha256)).data)
    except (NotFoundError, ProtocolError) as error:
        raise InvalidError(
            f"the sketch encoder of model {model!r}, of release {current.number}, is not to be had: {error}",
            subject=model,
            hint="publish a release by hand that ends monitoring: fleet release publish --end-monitoring",
        ) from error


def contract_of(hub: Hub, model: str, current: Current | None) -> Contract | None:
    """Return the contract of the model's next release, with the encoder of its sketch; None before its first release.

    Raises:
        InvalidError: the encoder cannot be read.
    """
    encoder = check_encoder(hub, model, current)
    if current is None:
        return None
    return Contract(model, words(model, current.number), interface_of(current.manifest), encoder)


def _blob(hub: Hub, blob: Blob, what: str) -> bytes:
    try:
        data = hub.objects.get(blob_key(blob.sha256)).data
    except NotFoundError as error:
        raise InvalidError(f"blob {blob.sha256} {what} is not to be had: {error}", subject=blob.sha256) from error
    if hashlib.sha256(data).hexdigest() != blob.sha256:
        raise InvalidError(f"blob {blob.sha256} {what} is damaged in the store", subject=blob.sha256)
    return data


def _weights_key(model: str, number: int, network: str) -> str:
    return f"weights/{model}/{number}/{network}.safetensors"
