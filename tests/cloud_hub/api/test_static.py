"""The pull path: signed files and blobs, by range, without credentials refused, within limits."""

from __future__ import annotations

import hashlib

import pytest

from cloud_hub.api.blobs import parse_range
from tests.support.hub import HubFixture, make_hub

DATA = bytes(range(256)) * 20
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def mirror(hub: HubFixture) -> dict[str, str]:
    """Headers of a mirror; the blob is there."""
    hub.hub.objects.put_new(f"blobs/{SHA256}", DATA)
    return hub.auth(hub.token("mirror"))


def test_caching(hub: HubFixture, mirror: dict[str, str]) -> None:
    stamp = hub.client.get("/tuf/metadata/timestamp.json", headers=mirror)
    assert stamp.status_code == 200 and stamp.headers["cache-control"] == "no-cache"
    root = hub.client.get("/tuf/metadata/1.root.json", headers=mirror)
    assert "immutable" in root.headers["cache-control"]
    assert root.content == hub.hub.objects.get("tuf/metadata/1.root.json").data


@pytest.mark.parametrize(
    "path",
    [
        "/tuf/metadata/9.root.json",
        "/tuf/metadata/root.json",
        "/tuf/metadata/..%2f..%2fkeys",
        "/tuf/metadata/0.root.json",
        "/tuf/targets/channels/stable.json",
        "/tuf/targets/../../keys/rollout.pem",
        "/tuf/targets/models/..%2f..%2fx/a.json",
        "/tuf/targets/channels/" + "0" * 64 + ".stable.json",
        "/blobs/" + "0" * 64,
        "/blobs/..%2f..%2fhub.toml",
        "/blobs/" + "A" * 64,
        "/blobs/x",
    ],
)
def test_what_is_not_there(hub: HubFixture, mirror: dict[str, str], path: str) -> None:
    assert hub.client.get(path, headers=mirror).status_code == 404


@pytest.mark.parametrize("path", ["/tuf/metadata/timestamp.json", "/tuf/targets/x", f"/blobs/{SHA256}", "/device/me"])
@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer x", "Basic eDp5", "Bearer el1.a.b", "Bearer el1.a.b.c"])
def test_no_credential_no_answer(hub: HubFixture, path: str, header: str) -> None:
    answer = hub.client.get(path, headers={"Authorization": header} if header else {})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=100-", 100, 5120), ("bytes=-20", 5100, 5120), ("bytes=5000-999999", 5000, 5120)],
)
def test_ranges(hub: HubFixture, mirror: dict[str, str], header: str, start: int, end: int) -> None:
    answer = hub.client.get(f"/blobs/{SHA256}", headers={**mirror, "Range": header})
    assert answer.status_code == 206 and answer.content == DATA[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/5120"
    assert answer.headers["etag"] == f'"{SHA256}"'


def test_whole_blobs_and_conditions(hub: HubFixture, mirror: dict[str, str]) -> None:
    url, ranged = f"/blobs/{SHA256}", {**mirror, "Range": "bytes=10-"}
    whole = hub.client.get(url, headers=mirror)
    assert whole.status_code == 200 and whole.content == DATA and whole.headers["accept-ranges"] == "bytes"
    assert hub.client.get(url, headers={**ranged, "If-Range": f'"{SHA256}"'}).status_code == 206
    assert hub.client.get(url, headers={**ranged, "If-Range": '"other"'}).content == DATA
    assert hub.client.get(url, headers={**mirror, "If-None-Match": f'"{SHA256}"'}).status_code == 304
    beyond = hub.client.get(url, headers={**mirror, "Range": "bytes=5120-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == "bytes */5120"
    for ignored in ("bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        assert hub.client.get(url, headers={**mirror, "Range": ignored}).content == DATA


def test_ranges_of_nothing() -> None:
    assert parse_range("bytes=-0", 10) == (10, 0)
    assert parse_range("bytes=0-", 0) == (0, 0)
    assert parse_range("bytes=-5", 3) == (0, 3)


def test_uploads_are_verified(hub: HubFixture) -> None:
    url, http, auth = f"/api/v1/blobs/{SHA256}", hub.client, hub.auth()
    assert http.head(url, headers=auth).status_code == 404
    wrong = http.put(url, content=DATA[:-1], headers=auth)
    assert wrong.status_code == 400 and "not to" in wrong.json()["error"]
    assert not hub.hub.objects.exists(f"blobs/{SHA256}")
    assert http.put(url, content=DATA, headers=auth).status_code == 201
    again = http.put(url, content=DATA, headers=auth)
    assert again.status_code == 200 and again.json()["created"] is False
    assert http.head(url, headers=auth).headers["x-blob-size"] == "5120"
    assert http.put("/api/v1/blobs/x", content=b"", headers=auth).status_code == 404
    viewer = hub.auth(hub.token(role="viewer"))
    assert http.put(url, content=DATA, headers=viewer).status_code == 403
    assert list(hub.hub.config.temporary_dir.iterdir()) == []


def test_limits_hold_with_and_without_a_declared_length(tmp_path) -> None:  # type: ignore[no-untyped-def]
    hub = make_hub(tmp_path, limits={"blob": 1000, "body": 2000})
    for content in (DATA, iter([DATA[:600], DATA[600:]])):
        answer = hub.client.put(f"/api/v1/blobs/{SHA256}", content=content, headers=hub.auth())
        assert answer.status_code == 413 and answer.json()["code"] == "too-large"
    assert list(hub.hub.config.temporary_dir.iterdir()) == []
    for content in (b" " * 3000, iter([b" " * 1500, b" " * 1500])):
        assert hub.client.post("/api/v1/models", content=content, headers=hub.auth()).status_code == 413


def test_patches_between_blobs(hub: HubFixture, mirror: dict[str, str]) -> None:
    from model_compiler.package.delta import build

    old = bytes(reversed(DATA))
    before, patch = hashlib.sha256(old).hexdigest(), build(old, DATA).patch
    operator = hub.auth(hub.token("operator", role="operator"))
    url = f"/blobs/{SHA256}/from/{before}"
    assert hub.client.get(url, headers=mirror).status_code == 404
    assert hub.client.put(f"/api/v1{url}", content=patch, headers=mirror).status_code == 403
    made = hub.client.put(f"/api/v1{url}", content=patch, headers=operator)
    assert made.status_code == 201 and made.json()["created"] is True
    answer = hub.client.get(url, headers=mirror)
    assert answer.content == patch and answer.headers["content-length"] == str(len(patch))
    assert hub.client.get(url, headers={**mirror, "Range": "bytes=4-"}).content == patch[4:]
    wrong = ((b"x" * 200, "not a delta"), (patch + b"x", "do not fill"), (b"x" * 6000, "no larger than the blob"))
    for body, words in wrong:
        refused = hub.client.put(f"/api/v1{url}", content=body, headers=operator)
        assert refused.status_code in (413, 422, 400) and words in refused.text
    other = hub.client.put(f"/api/v1/blobs/{SHA256}/from/{SHA256}", content=patch, headers=operator)
    assert "for other blobs" in other.text
    assert hub.client.put(f"/api/v1/blobs/{before}/from/{SHA256}", content=patch, headers=operator).status_code == 404
