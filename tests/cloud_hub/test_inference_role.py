"""`cloud-hub serve --roles infer`: instances beside a hub, which own nothing and share what is in the database."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from fastapi.testclient import TestClient

from cloud_hub.app import create_app
from cloud_hub.errors import ConflictError, ForbiddenError, NotFoundError
from cloud_hub.identity.tokens import revoke_token
from cloud_hub.opening.bootstrap import check_database, open_hub, open_instance
from cloud_hub.store.migrate import downgrade
from cloud_hub.trust.rows import latest_metadata
from fleet.client import Client, HttpTransport
from fleet.protocol.manifest import encode_manifest
from fleet.rpc import messages
from tests.support import models
from tests.support.hub import HubFixture, make_hub
from tests.support.hub_process import free_port, serving

PATH = "/v2/models/tiny/infer"
ROW = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]}


def publish(hub: HubFixture, folder: Path) -> str:
    """A model that can be asked; a token for it."""
    hub.model("tiny")
    made = models.release(folder / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    return hub.token("application", scope="infer:tiny")


def test_an_instance_answers_inference_requests_and_nothing_else(hub: HubFixture, tmp_path: Path) -> None:
    token = publish(hub, tmp_path)
    client = TestClient(create_app(hub.hub, inference_only=True), raise_server_exceptions=False)
    assert client.post(PATH, json=ROW, headers=hub.auth(token)).status_code == 200
    assert client.get("/api/v1/releases", headers=hub.auth()).status_code == 404
    assert client.get("/").status_code == 404
    ready = client.get("/readyz")
    assert ready.status_code == 200 and set(ready.json()["parts"]) == {"database", "objects", "clock"}
    assert "edgeloop_hub_inference_waiting" in client.get("/metrics", headers=hub.auth()).text


def take_signing_keys(directory: Path) -> None:
    """Leave in a hub's directory what an instance needs."""
    for path in (directory / "keys").iterdir():
        if path.name not in ("ca.pem", "server.pem", "server.key", "token-secret"):
            path.unlink()


def test_an_instance_needs_no_key_that_signs_or_certifies(hub: HubFixture, tmp_path: Path) -> None:
    token = publish(hub, tmp_path)
    take_signing_keys(hub.hub.config.directory)
    instance = open_instance(hub.hub.config)
    client = TestClient(create_app(instance, inference_only=True), raise_server_exceptions=False)
    assert client.post(PATH, json=ROW, headers=hub.auth(token)).status_code == 200
    key = generate_private_key(SECP256R1()).public_key()
    for use in (
        lambda: instance.authority.device("edge-1", key, 0.0, 1.0),
        lambda: instance.authority.server(("hub.example",), 0.0),
        lambda: instance.authority.hub_client(0.0),
        lambda: instance.authority.revocation_list((), 0.0),
        lambda: instance.command_key.sign(b"reboot"),
        lambda: instance.command_key.target(),
    ):
        with pytest.raises(ForbiddenError, match="answers inference requests alone"):
            use()
    with pytest.raises(NotFoundError, match=r"rollout\.pem is missing"):
        open_hub(hub.hub.config)


def latest(hub: HubFixture) -> dict[str, bytes]:
    with hub.hub.reading() as session:
        return latest_metadata(session)


def test_an_instance_signs_nothing(hub: HubFixture) -> None:
    before = latest(hub)
    with pytest.raises(ForbiddenError, match="not held here"):
        open_instance(hub.hub.config).publisher.change_channel("stable", lambda channel: channel, actor="test")
    assert latest(hub) == before


def test_an_instance_migrates_nothing(hub: HubFixture) -> None:
    check_database(hub.hub.config)
    downgrade(hub.hub.engine, "0001")
    with pytest.raises(ConflictError, match="version"):
        check_database(hub.hub.config)


def ask(url: str, token: str) -> int:
    request = urllib.request.Request(url + PATH, json.dumps(ROW).encode(), {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60, context=ssl._create_unverified_context()) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def rpc_ready(authority: Path, port: str) -> bool:
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority.read_bytes())) as channel:
        answer = messages.kind("ServerReadyResponse").FromString
        return bool(channel.unary_unary(f"/{messages.SERVICE}/ServerReady", None, answer)(b"", timeout=60).ready)


@pytest.mark.e2e
def test_two_processes_on_one_directory_share_work_and_obey_a_revocation_made_elsewhere(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, start=time.time())
    token = publish(hub, tmp_path)
    directory = hub.hub.config.directory
    take_signing_keys(directory)
    rpc = str(free_port())
    instance = ("--roles", "infer")
    with serving(directory, *instance) as one, serving(directory, *instance, "--grpc-port", rpc) as other:
        both = [one.url, other.url]
        assert rpc_ready(directory / "keys" / "ca.pem", rpc)
        client = Client(HttpTransport(one.url, ca=directory / "keys" / "ca.pem"), token)
        asked = client.infer_later("tiny", {"input": models.inputs(2)})
        elsewhere = Client(HttpTransport(other.url, ca=directory / "keys" / "ca.pem"), token)
        assert elsewhere.wait(asked, timeout_s=60, every_s=0.05).model_version == "1"
        assert [ask(url, token) for url in both] == [200, 200]
        with hub.hub.session() as session:
            revoke_token(session, token.split(".")[1], now=time.time())
        began = time.monotonic()
        while [ask(url, token) for url in both] != [401, 401] and time.monotonic() - began < 1.0:
            pass
        assert [ask(url, token) for url in both] == [401, 401]
        assert [one.stop(), other.stop()] == [0, 0]
