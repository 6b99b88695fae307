"""A front in the manifest: which tensors lie where, what it requires, and what ready tensors are named by."""

from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from fleet.protocol.asking import release_parameters
from fleet.protocol.blob import Blob
from fleet.protocol.errors import MalformedError, UnsupportedError
from fleet.protocol.front import Front, between
from fleet.protocol.interface import differences, interface_of
from fleet.protocol.manifest import Manifest, Tensor, decode_manifest, encode_manifest
from fleet.protocol.preprocessing import digest, required_by
from fleet.protocol.steps import Normalise
from tests.support.manifests import small_release

SOUND = Tensor(name="sound", datatype="FP32", shape=(-1, 2000))
KIND = Tensor(name="kind", datatype="FP32", shape=(-1, 2))
BANDS = Tensor(name="bands", datatype="FP32", shape=(-1, 4))
STEPS = (Normalise(input="bands", mean=(1.0,), std=(2.0,)),)
FRONT = Front(runtime="onnx", blob=Blob(sha256="a" * 64, size=5), inputs=("sound",), outputs=(BANDS,))


def release(front: Front | None = FRONT) -> Manifest:
    small = decode_manifest(small_release(inputs=(SOUND, KIND))[0])
    return replace(
        small,
        front=front or UNSET,
        preprocess=STEPS if front else UNSET,
        requires=required_by(STEPS, front) if front else (),
    )


def test_what_the_front_makes_takes_the_place_of_what_it_takes() -> None:
    manifest = decode_manifest(encode_manifest(release()))
    assert manifest.in_front == FRONT and FRONT.blob in manifest.blobs(())
    assert between(FRONT, manifest.inputs) == (KIND, BANDS) == manifest.ready
    assert interface_of(manifest).preprocess == ("front sound", "normalise bands")
    assert differences(interface_of(manifest), interface_of(release(None)))[0].startswith(
        "the model's preprocessing is front sound; normalise bands"
    )
    shown = release_parameters(manifest)
    assert shown["front"] == {"inputs": ["sound"], "outputs": [{"name": "bands", "datatype": "FP32", "shape": [-1, 4]}]}
    assert [tensor["name"] for tensor in shown["ready_inputs"]] == ["kind", "bands"]


def test_another_file_makes_other_ready_tensors() -> None:
    other = replace(FRONT, blob=Blob(sha256="b" * 64, size=5))
    assert len({digest(STEPS), digest(STEPS, FRONT), digest(STEPS, other)}) == 3


def test_an_agent_that_knows_no_front_or_lacks_its_runtime_keeps_what_it_has() -> None:
    data = encode_manifest(release())
    for known in (frozenset[str](), frozenset({"step:normalise", "front:litert"})):
        with pytest.raises(UnsupportedError, match="unsupported:front:onnx"):
            decode_manifest(data, known)
    assert decode_manifest(data, frozenset({"step:normalise", "front:onnx"})).in_front == FRONT


def test_a_release_without_a_front_has_the_bytes_that_it_had() -> None:
    assert b"front" not in encode_manifest(release(None))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": ("light",)}, "there is no 'light'"),
        ({"inputs": ()}, "at least one each"),
        ({"outputs": ()}, "at least one each"),
        ({"outputs": (replace(BANDS, name="kind"),)}, "there is a 'kind' already"),
        ({"outputs": (BANDS, BANDS)}, "there is a 'bands' already"),
        ({"outputs": (replace(BANDS, shape=(1, 4)),)}, "must count rows first|has shape"),
        ({"outputs": (replace(BANDS, datatype="BYTES"),)}, "it makes 'bands' BYTES"),
        ({"outputs": (replace(BANDS, shape=(-1, 1 << 23)),)}, "it makes 'bands' FP32"),
        ({"blob": Blob(sha256="x", size=1)}, "not a blob reference"),
    ],
)
def test_a_front_that_does_not_fit_is_refused_when_it_is_read(change: dict[str, object], words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        decode_manifest(encode_manifest(release(replace(FRONT, **change))))
