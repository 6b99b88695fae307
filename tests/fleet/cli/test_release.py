from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fleet.protocol.manifest import (
    Blob,
    Manifest,
    SelfTest,
    Tensor,
    Variant,
    Verdict,
    decode_manifest,
    encode_manifest,
)
from fleet.protocol.manifest_detail import Detail, VariantDetail, encode_detail


@pytest.fixture
def release_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "release"
    (directory / "blobs").mkdir(parents=True)
    blobs = []
    for content in (b"model", b"vectors"):
        sha = hashlib.sha256(content).hexdigest()
        (directory / "blobs" / sha).write_bytes(content)
        blobs.append(Blob(sha256=sha, size=len(content)))
    verdict = Verdict(
        metric="accuracy",
        value=0.9,
        interval=(0.8, 1),
        reference=0.9,
        drop_points=0,
        agreement=1,
        worst_class_drop=0,
        samples=10,
        size_bytes=5,
        latency_us_p50=1,
        latency_us_p95=1,
        latency_ratio=1,
    )
    variant = Variant(
        name="litert-int8", runtime="litert", precision="int8", placement="edge", blob=blobs[0], verdict=verdict
    )
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, 64))
    manifest = Manifest(
        inputs=(tensor,),
        outputs=(tensor,),
        variants=(variant,),
        selftest=SelfTest(blob=blobs[1], vectors=1, tolerance={}),
    )
    (directory / "manifest.json").write_bytes(encode_manifest(manifest))
    return directory


def shas(directory: Path) -> list[str]:
    return sorted(file.name for file in (directory / "blobs").iterdir())


def test_publish_uploads_only_what_is_missing_then_the_manifest(fleet, hub, release_dir: Path) -> None:
    present, missing = shas(release_dir)
    hub.on("HEAD", f"/blobs/{present}", b"").on("PUT", f"/blobs/{missing}")
    hub.on("POST", "/models/digits/releases", {"model": "digits", "number": 4, "status": "published"})
    outcome = fleet("release", "publish", str(release_dir), "--model", "digits", "--note", "better", "--json")
    assert outcome.document["number"] == 4
    puts = [path for method, path, _, _ in hub.asked if method == "PUT"]
    assert puts == [f"/api/v1/blobs/{missing}"]
    method, path, body, headers = hub.asked[-1]
    assert (method, path, headers["x-note"]) == ("POST", "/api/v1/models/digits/releases", "better")
    assert body == (release_dir / "manifest.json").read_bytes()


def test_publish_refuses_a_directory_with_a_hole(fleet, hub, release_dir: Path) -> None:
    (release_dir / "blobs" / shas(release_dir)[0]).unlink()
    outcome = fleet("release", "publish", str(release_dir), "--model", "digits")
    assert outcome.code == 1 and "is missing" in outcome.err
    assert hub.asked == []
    assert fleet("release", "publish", str(release_dir / "blobs"), "--model", "digits").code == 3


def test_with_a_key_of_its_own_the_publisher_signs(fleet, hub, release_dir: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    file = tmp_path / "release.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for sha in shas(release_dir):
        hub.on("HEAD", f"/blobs/{sha}", b"")
    hub.on("POST", "/models/digits/releases", {"model": "digits", "number": 4, "status": "awaiting-signature"})
    signing = {"payload": base64.b64encode(b"metadata").decode(), "version": 9}
    hub.on("GET", "/models/digits/releases/4/signing", signing)
    hub.on("POST", "/models/digits/releases/4/signature", {"model": "digits", "number": 4, "status": "published"})
    outcome = fleet("release", "publish", str(release_dir), "-m", "digits", "--key", str(file), "--json")
    assert outcome.document["status"] == "published"
    (sent,) = hub.sent("POST", "/models/digits/releases/4/signature")
    key.public_key().verify(bytes.fromhex(sent["signature"]), b"metadata")
    assert sent["version"] == 9 and len(sent["key_id"]) == 64


def test_a_locked_key_says_where_its_passphrase_goes(fleet, hub, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "release.pem"
    encrypted = BestAvailableEncryption(b"secret")
    file.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted))
    monkeypatch.delenv("EDGELOOP_PASSPHRASE", raising=False)
    outcome = fleet("release", "sign", "digits", "4", "--key", str(file))
    assert outcome.code == 1 and "EDGELOOP_PASSPHRASE" in outcome.err
    assert fleet("release", "sign", "digits", "4", "--key", str(tmp_path / "none")).code == 3


def test_without_a_key_it_says_what_the_release_waits_for(fleet, hub, release_dir: Path) -> None:
    for sha in shas(release_dir):
        hub.on("HEAD", f"/blobs/{sha}", b"")
    hub.on("POST", "/models/digits/releases", {"model": "digits", "number": 4, "status": "awaiting-signature"})
    outcome = fleet("release", "publish", str(release_dir), "--model", "digits")
    assert outcome.code == 0 and "fleet release sign digits 4" in outcome.err


def test_withdraw_gives_its_reason(fleet, hub) -> None:
    hub.on("POST", "/models/digits/releases/3/withdraw", {"model": "digits", "number": 3, "status": "withdrawn"})
    assert fleet("release", "withdraw", "digits", "3", "--reason", "labels swapped").code == 0
    assert hub.sent("POST", "/models/digits/releases/3/withdraw") == [{"reason": "labels swapped"}]


def test_show_prints_what_devices_measured_per_hardware_class(fleet, hub) -> None:
    figures = {
        "hardware": "rpi4",
        "variant": "litert-int8",
        "runtime": "ai-edge-litert",
        "devices": 2,
        "p50_us": 50.0,
        "p95_us": 80.5,
        "worst_p95_us": 100.0,
        "load_us": 900.0,
        "memory_bytes": 4096,
        "process_bytes": 8192,
    }
    document = {"model": "digits", "number": 1, "status": "published", "measured": [figures]}
    hub.on("GET", "/models/digits/releases/1", document)
    outcome = fleet("release", "show", "digits", "1")
    assert outcome.code == 0 and "p95 µs" in outcome.out
    assert {"rpi4", "litert-int8", "2", "80.5", "4096"} <= set(outcome.out.split())
    assert fleet("release", "show", "digits", "1", "--json").document == {**document, "created_at": 0.0}
    hub.on("GET", "/models/digits/releases/2", {"model": "digits", "number": 2, "status": "published"})
    assert "no device has measured it yet" in "".join(fleet("release", "show", "digits", "2")[1:])


def test_a_release_is_published_with_words_for_its_card(fleet, hub, release_dir: Path, tmp_path: Path) -> None:
    hub.on("POST", "/models/digits/releases", {"model": "digits", "number": 4, "status": "published"})
    for sha in shas(release_dir):
        hub.on("HEAD", f"/blobs/{sha}", b"")
    text = "Sorts letters."
    before = decode_manifest((release_dir / "manifest.json").read_bytes())
    data = encode_detail(Detail(variants={"litert-int8": VariantDetail()}, intended_use=text, limits="Blur."))
    sha = hashlib.sha256(data).hexdigest()
    hub.on("PUT", f"/blobs/{sha}")
    file = tmp_path / "limits.txt"
    file.write_text("Blur.\n")
    words = ("--intended-use", text, "--limits", f"@{file}")
    assert fleet("release", "publish", str(release_dir), "--model", "digits", *words).code == 0
    sent = decode_manifest(hub.asked[-1][2])
    assert sent.detail == Blob(sha256=sha, size=len(data)) and sent.variants == before.variants
    missing = fleet("release", "publish", str(release_dir), "--model", "digits", "--limits", f"@{tmp_path}/none")
    assert missing.code == 2 and "cannot be read" in " ".join(missing.err.replace("│", " ").split())
    assert fleet("release", "publish", str(release_dir), "--model", "m", "--limits", "x" * 10_001).code == 2


def test_a_card_is_printed_or_written(fleet, hub, tmp_path: Path) -> None:
    found = {"model": "digits", "number": 2, "markdown": "# Model card\n"}
    hub.on("GET", "/models/digits/releases/2/card", found)
    assert fleet("release", "card", "digits", "2").out == "# Model card\n"
    assert fleet("release", "card", "digits", "2", "--json").document == found
    outcome = fleet("release", "card", "digits", "2", "--out", str(tmp_path / "card.md"))
    assert outcome.out == "" and (tmp_path / "card.md").read_text() == "# Model card\n"
