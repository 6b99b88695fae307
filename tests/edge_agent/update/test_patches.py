"""The files that an update fetches: patches for every file that the hub has one for, and nothing that no device
needs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from cloud_hub.trust.manifest_patches import keep_manifest_patches
from edge_agent.update.download.release import _uses
from fleet.protocol import selftest
from fleet.protocol.manifest import Blob, Manifest, decode_manifest, encode_manifest
from fleet.protocol.manifest_detail import Detail, encode_detail, without_detail
from model_compiler.inputs.former_release import pairs
from model_compiler.inputs.release_folder import blob_of
from model_compiler.package.delta import build
from tests.golden.examples import MANIFEST
from tests.support.device import Device, follow
from tests.support.hub import HubFixture
from tests.support.models import onnx_bytes, release


def published(hub: HubFixture, folder: Path, held: Manifest, *, patches: bool) -> tuple[int, Manifest, dict[str, int]]:
    """A release with another model file, the held self-test's vectors in another order, and a detail.

    Returns its number, its manifest, and the bytes of the hub's patches by what they make.
    """
    made = release(folder, data=onnx_bytes() + b"\x32\x05other", cloud=True).manifest
    vectors = selftest.decode_vectors((folder / made.selftest.blob.sha256).read_bytes())
    turned, detail = selftest.encode_vectors(vectors[::-1]), encode_detail(Detail(tools={"torch": "2"}))
    for data in (turned, detail):
        (folder / blob_of(data).sha256).write_bytes(data)
    made = replace(made, selftest=replace(made.selftest, blob=blob_of(turned)))
    made = without_detail(made, blob_of(detail))
    for path in folder.iterdir():
        hub.hub.objects.put_new(f"blobs/{path.name}", path.read_bytes())
    sizes = {}
    for old, new in pairs(held, made) if patches else ():
        patch = build(*(hub.hub.objects.get(f"blobs/{blob.sha256}").data for blob in (old, new))).patch
        hub.hub.objects.put_new(f"deltas/{new.sha256}/{old.sha256}", patch)
        sizes[new.sha256] = len(patch)
    number = hub.hub.publisher.publish_release("tiny", encode_manifest(made), actor="test").number
    return number, made, sizes


def fetched(device: Device, number: int, hub: HubFixture) -> int:
    """The bytes of blobs and patches that the way to release `number` took."""
    received: list[int] = []
    device.restart(count_bytes=received.append)
    device.start()
    follow(hub, number)
    device.look()
    assert device.activator.serving == {"tiny": number}
    return sum(received)


def held_manifest(device: Device) -> Manifest:
    return device.updater.store.manifest(device.state().active.manifest)


def test_model_file_and_self_test_come_as_patches(committed: Device, hub: HubFixture, tmp_path: Path) -> None:
    number, made, sizes = published(hub, tmp_path / "second", held_manifest(committed), patches=True)
    variant = made.placed("edge")[0]
    assert set(sizes) == {variant.blob.sha256, made.selftest.blob.sha256}
    assert fetched(committed, number, hub) == sum(sizes.values()) < 0.5 * (variant.blob.size + made.selftest.blob.size)


def test_without_patches_whole_files_come_and_no_detail(committed: Device, hub: HubFixture, tmp_path: Path) -> None:
    number, made, _ = published(hub, tmp_path / "second", held_manifest(committed), patches=False)
    variant = made.placed("edge")[0]
    assert fetched(committed, number, hub) == variant.blob.size + made.selftest.blob.size
    blobs = {path.name for path in committed.updater.store.blobs.iterdir()}
    assert made.detail.sha256 not in blobs and made.sketch.reference.sha256 not in blobs
    assert {blob.sha256 for blob in made.needed_for(variant)} <= blobs


def test_a_manifest_comes_as_a_patch_between_manifests(committed: Device, hub: HubFixture, tmp_path: Path) -> None:
    number, made, _ = published(hub, tmp_path / "second", held_manifest(committed), patches=True)
    keep_manifest_patches(hub.hub, "tiny", number)
    (patch,) = manifest_patches(hub, made)
    assert hub.hub.objects.info(patch).size < 0.4 * len(encode_manifest(made))
    (target,) = [one.key for one in hub.hub.objects.list("tuf") if one.key.endswith(f".{number}.json")]
    hub.hub.objects.delete(target)  # so whoever has the manifest has it by the patch
    fetched(committed, number, hub)
    assert held_manifest(committed) == made


@pytest.mark.parametrize("harm", ["nothing", "cut", "another"])
def test_a_bad_patch_to_a_manifest_costs_a_whole_one_and_no_more(
    committed: Device, hub: HubFixture, tmp_path: Path, harm: str
) -> None:
    number, made, _ = published(hub, tmp_path / "second", held_manifest(committed), patches=True)
    keep_manifest_patches(hub.hub, "tiny", number)
    (key,) = manifest_patches(hub, made)
    good = hub.hub.objects.get(key).data
    hub.hub.objects.delete(key)
    other = replace(made, lineage=replace(made.lineage, seed=7))  # as long as the signed one
    forged = bytearray(build(held_bytes(committed), encode_manifest(other)).patch)
    forged[40:72] = bytes.fromhex(blob_of(encode_manifest(made)).sha256)  # it claims to make the signed one
    if harm != "nothing":
        hub.hub.objects.put_new(key, good[:-9] if harm == "cut" else bytes(forged))
    fetched(committed, number, hub)
    assert held_manifest(committed) == made


def manifest_patches(hub: HubFixture, made: Manifest) -> list[str]:
    return [one.key for one in hub.hub.objects.list(f"deltas/{blob_of(encode_manifest(made)).sha256}")]


def held_bytes(device: Device) -> bytes:
    return device.updater.store.manifest_bytes(device.state().active.manifest)


def test_an_agent_of_0_1_finds_what_it_looks_for_in_a_manifest_without_detail() -> None:
    bare = without_detail(MANIFEST, Blob(sha256="6" * 64, size=5))
    assert decode_manifest(encode_manifest(bare)).blobs(bare.variants) == MANIFEST.blobs()  # the training fit, too


def test_a_file_is_made_from_one_of_the_same_use() -> None:
    variant = MANIFEST.variants[0]
    assert _uses(MANIFEST, variant.name) == (variant.blob, MANIFEST.selftest.blob, None, MANIFEST.sketch.encoder)
    assert _uses(replace(MANIFEST, sketch=None), variant.name)[3] is None
