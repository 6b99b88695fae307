"""The folder of a retrain's work: as input the snapshot, the applications' contract, and the release before; as output
`release/`, and the weights of its networks, `student.safetensors` and `teacher.safetensors`.

    snapshot.npz    the samples and labels to train on
    fixed.json      the manifest that fixed the model's interface; fixed.encoder: the encoder of its sketch
    current.json    the manifest of the release that devices come from; current.model: its best model file;
                    current.front: the model file in front of it, where there is one;
                    current.blobs/: the files of it that devices hold, by SHA-256 (`inputs.former_release`);
                    current.student and current.teacher: the weights of its networks, where a job has kept them,
                    else current.student.onnx and current.teacher.onnx: its own files that hold them

The hub writes it (`handing`), the work reads it: users' code never sees the hub, its database or its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloud_hub.samples.dataset import Dataset, read_dataset
from cloud_hub.training.checking import Contract
from fleet.protocol.drift_encoder import decode_encoder
from fleet.protocol.interface import interface_of
from fleet.protocol.manifest import Manifest, Variant, decode_manifest
from model_compiler.inputs.dataset import Array
from model_compiler.inputs.former_release import Former

SNAPSHOT, FIXED, ENCODER, CURRENT, CURRENT_MODEL, CURRENT_FRONT, CURRENT_FILES = (
    "snapshot.npz",
    "fixed.json",
    "fixed.encoder",
    "current.json",
    "current.model",
    "current.front",
    "current.blobs",
)


RELEASE = "release"
NETWORKS = ("student", "teacher")


@dataclass(frozen=True)
class Released:
    """A published release with its best model file, the variant that the file is, the file of its front, and those that
    devices hold by SHA-256."""

    number: int
    manifest: Manifest
    variant: Variant
    model: bytes
    front: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def former(self) -> Former:
        """It as the compiler takes it."""
        return Former(self.manifest, self.files)


@dataclass(frozen=True)
class Handed:
    """The folder's content, read."""

    folder: Path

    @property
    def snapshot(self) -> Dataset:
        """The samples and labels to train on."""
        return read_dataset(self.folder / SNAPSHOT)

    def contract(self, model: str, number: int | None) -> Contract | None:
        """Return the contract that the new release must keep, by release `number`; None for a model without one."""
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
        front = (self.folder / CURRENT_FRONT).read_bytes() if manifest.in_front is not None else b""
        model, folder = (self.folder / CURRENT_MODEL).read_bytes(), self.folder / CURRENT_FILES
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}
        return Released(number, manifest, best_of(manifest), model, front, files)

    @property
    def student(self) -> bytes:
        """The most precise of the files that devices have of the release before; empty without one."""
        if not (self.folder / CURRENT).is_file():
            return b""
        edge = decode_manifest((self.folder / CURRENT).read_bytes()).placed("edge")
        if not edge:
            return b""
        best = min(edge, key=lambda variant: (variant.precision != "fp32", variant.runtime != "onnx"))
        file = self.folder / CURRENT_FILES / best.blob.sha256
        return file.read_bytes() if file.is_file() else b""

    @property
    def start(self) -> dict[str, dict[str, Array]]:
        """The weights of the release before by network and name, empty for a network whose weights are not to be had;
        without any networks where there was no release before."""
        return {network: self._weights(network) for network in NETWORKS if (self.folder / CURRENT).is_file()}

    def _weights(self, network: str) -> dict[str, Array]:
        from safetensors.numpy import load_file

        kept, file = self.folder / weights_file(network), self.folder / f"{weights_file(network)}.onnx"
        if kept.is_file():
            return load_file(kept)
        return weights_in(file.read_bytes()) if file.is_file() else {}


def words(model: str, number: int) -> str:
    """Return the words by which refusals name the release that fixed a model's interface."""
    return f"model {model!r} has an interface, fixed by release {number}"


def best_of(manifest: Manifest) -> Variant:
    """The variant that answers best: the cloud's where there is one, else the first of the edge's."""
    cloud = [variant for variant in manifest.placed("cloud") if variant.runtime == "onnx"]
    return (cloud or list(manifest.placed("edge")))[0]


def holder_of(manifest: Manifest, network: str) -> Variant | None:
    """The variant whose file holds a network's weights by name: ONNX in single precision; None without one."""
    places = manifest.placed("edge" if network == "student" else "cloud")
    return next((v for v in places if v.runtime == "onnx" and v.precision == "fp32"), None)


def weights_in(model: bytes) -> dict[str, Array]:
    """The named tensors of an ONNX file. Exporters keep the names of a torch module's parameters, unless they fold them
    into others."""
    from onnx import load_from_string, numpy_helper

    found = load_from_string(model).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in found}


def weights_file(network: str) -> str:
    """Return the name of the file that holds the weights of the release before, in the folder."""
    return f"current.{network}"
