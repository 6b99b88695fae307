"""What a retrain's work is given: a folder with the snapshot, what applications rely on, and the release before; and
what it leaves there: `release/`, and the weights of its networks, `student.safetensors` and `teacher.safetensors`.

    snapshot.npz    the samples and labels to train on
    fixed.json      the manifest that fixed the model's interface; fixed.encoder: the encoder of its sketch
    current.json    the manifest of the release that devices come from; current.model: its best model file;
                    current.student and current.teacher: the weights of its networks, where the hub has them

The hub writes it (`handing`), the work reads it: users' code never sees the hub, its database or its keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloud_hub.samples.dataset import Dataset, read_dataset
from cloud_hub.training.checking import Contract
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Manifest, Variant, decode_manifest
from fleet.protocol.sketch import decode_encoder
from model_compiler.data import Array

SNAPSHOT, FIXED, ENCODER, CURRENT, CURRENT_MODEL = (
    "snapshot.npz", "fixed.json", "fixed.encoder", "current.json", "current.model",
)  # fmt: skip


RELEASE = "release"
NETWORKS = ("student", "teacher")


@dataclass(frozen=True)
class Released:
    """A published release with its best model file, and the variant that the file is."""

    number: int
    manifest: Manifest
    variant: Variant
    model: bytes


@dataclass(frozen=True)
class Handed:
    """The folder's content, read."""

    folder: Path

    @property
    def snapshot(self) -> Dataset:
        """The samples and labels to train on."""
        return read_dataset(self.folder / SNAPSHOT)

    def contract(self, model: str, number: int | None) -> Contract | None:
        """What the new release must keep, by release `number`; None for a model without a release."""
        if number is None:
            return None
        manifest = decode_manifest((self.folder / FIXED).read_bytes())
        encoder = decode_encoder((self.folder / ENCODER).read_bytes()) if manifest.sketch is not None else None
        return Contract(model, words(model, number), interface_of(manifest), encoder)

    def current(self, number: int | None) -> Released | None:
        """The release that devices come from; None without any."""
        if number is None:
            return None
        manifest = decode_manifest((self.folder / CURRENT).read_bytes())
        return Released(number, manifest, best_of(manifest), (self.folder / CURRENT_MODEL).read_bytes())

    @property
    def start(self) -> dict[str, dict[str, Array]]:
        """The weights of the release before by network and name; without those that the hub does not have."""
        from safetensors.numpy import load_file

        files = {network: self.folder / weights_file(network) for network in NETWORKS}
        return {network: load_file(path) for network, path in files.items() if path.is_file()}


def words(model: str, number: int) -> str:
    """Who fixed a model's interface, as refusals say it."""
    return f"model {model!r} has an interface, fixed by release {number}"


def best_of(manifest: Manifest) -> Variant:
    """The variant that answers best: the cloud's where there is one, else the first of the edge's."""
    cloud = [variant for variant in manifest.placed("cloud") if variant.runtime == "onnx"]
    return (cloud or list(manifest.placed("edge")))[0]


def weights_file(network: str) -> str:
    """Where the weights of the release before lie in the folder."""
    return f"current.{network}"
