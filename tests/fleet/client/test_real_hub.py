"""The client against the hub's own application: paths, bodies and answers are what both sides mean."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import msgspec
import pytest
from starlette.testclient import TestClient

from cloud_hub.app import create_app
from fleet.api.channels import ChannelChanges, EntryChanges, NewChannel
from fleet.api.models import DriftPolicy, ModelChanges, ModelPolicy, NewModel
from fleet.api.rollouts import NewRollout
from fleet.api.tokens import NewToken
from fleet.cli.main import run
from fleet.cli.session import Session
from fleet.client import Client
from fleet.client.transport import HttpResponse
from fleet.errors import ConflictError, NotAllowedError, NotFoundError
from tests.cloud_hub.api.test_operator_api import add_device
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.server import serving


class AppTransport:
    """A `fleet.client.transport.Transport` into an ASGI application."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    def send(
        self, method: str, path: str, *, body: bytes | IO[bytes] | None, headers: Mapping[str, str], timeout: float
    ) -> HttpResponse:
        content = body if isinstance(body, bytes) or body is None else body.read()
        answer = self._client.request(method, path, content=content, headers=dict(headers), follow_redirects=False)
        lower = {name.lower(): value for name, value in answer.headers.items()}
        return HttpResponse(status=answer.status_code, headers=lower, body=answer.content)


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    return make_hub(tmp_path)


@pytest.fixture
def client(hub: HubFixture) -> Client:
    return Client(AppTransport(hub.client), hub.admin_token)


@pytest.fixture
def release_dir(tmp_path: Path) -> Path:
    manifest, blobs = small_release()
    directory = tmp_path / "release"
    (directory / "blobs").mkdir(parents=True)
    (directory / "manifest.json").write_bytes(manifest)
    for sha256, data in blobs.items():
        (directory / "blobs" / sha256).write_bytes(data)
    return directory


def test_tokens_are_made_listed_and_ended(client: Client) -> None:
    with pytest.raises(NotFoundError, match="no channel 'stable'"):
        client.create_token(NewToken(kind="claim", channel="stable"))
    client.create_channel(NewChannel(name="stable"))
    claim = client.create_token(NewToken(kind="claim", channel="stable", labels={"site": "berlin"}))
    assert claim.token.startswith("el1.") and claim.token.count(".") == 3
    assert claim.id in {token.id for token in client.tokens()}
    assert client.revoke_token(claim.id).revoked_at is not None
    assert client.delete_token(claim.id).id == claim.id
    assert claim.id not in {token.id for token in client.tokens()}


def test_what_was_made_by_mistake_is_deleted_once_nothing_names_it(client: Client, hub: HubFixture) -> None:
    client.create_model(NewModel(name="digitz"))
    number = hub.release("digitz")
    client.set_channel_model("stabel", "digitz", EntryChanges(release=number))
    with pytest.raises(ConflictError, match="used by channel stabel"):
        client.delete_model("digitz")
    assert client.remove_channel_model("stabel", "digitz").document.models == {}
    assert client.delete_channel("stabel").name == "stabel"
    assert client.delete_release("digitz", number).number == number
    changed = client.change_model("digitz", ModelChanges(policy=ModelPolicy(drift=DriftPolicy(samples=3))))
    assert (changed.next_release, changed.policy.drift) == (2, DriftPolicy(samples=3))
    assert client.delete_model("digitz").name == "digitz"
    assert client.models() == [] and client.channels() == []


def test_models_channels_devices_and_the_audit_log(client: Client, hub: HubFixture) -> None:
    client.create_model(NewModel(name="digits", recipe="examples.digits.recipe"))
    with pytest.raises(ConflictError):
        client.create_model(NewModel(name="digits"))
    assert client.model("digits").recipe == "examples.digits.recipe"
    number = hub.release()
    manifest = client.release("digits", number).manifest
    assert manifest is not None and manifest.variants
    fixed = client.model("digits").interface
    assert fixed is not None and tuple(fixed.inputs) == manifest.inputs
    client.set_channel_model("stable", "digits", EntryChanges(release=number, audit={"share_ppm": 50_000}))
    client.change_channel("stable", ChannelChanges(fetching={"max_bytes_per_s": 1000}))
    document = client.channel("stable").document
    assert document.models["digits"].audit.share_ppm == 50_000
    assert document.fetching.max_bytes_per_s == 1000
    assert client.devices(labels=["site=berlin"], channel="stable") == []
    with pytest.raises(NotFoundError):
        client.device("nobody")
    assert "channel.change" in {entry.action for entry in client.audit()}


def test_a_viewer_may_look_and_not_touch(hub: HubFixture) -> None:
    viewer = Client(AppTransport(hub.client), hub.token(role="viewer"))
    assert viewer.models() == []
    with pytest.raises(NotAllowedError):
        viewer.create_model(NewModel(name="digits"))


def test_a_release_goes_from_a_directory_into_the_registry(hub: HubFixture, release_dir: Path, capsys) -> None:
    hub.model("digits")
    environment = {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": hub.admin_token}
    session = Session(environment, connect=lambda login: AppTransport(hub.client))
    assert run(["release", "publish", str(release_dir), "--model", "digits", "--note", "first"], session) == 0
    assert "uploading" in capsys.readouterr().err
    assert run(["release", "show", "digits", "1"], session) == 0
    assert "published" in capsys.readouterr().out
    assert run(["release", "publish", str(release_dir), "--model", "digits"], session) == 0
    assert "uploading" not in capsys.readouterr().err, "the blobs are there"
    assert run(["channel", "set", "stable", "--model", "digits", "--release", "1"], session) == 0
    assert run(["channel", "show"], session) == 0
    assert run(["release", "withdraw", "digits", "2", "--reason", "twice the same"], session) == 0
    assert run(["release", "publish", str(release_dir), "--model", "none"], session) == 3


def test_a_release_comes_back_as_the_compiler_wrote_it(
    hub: HubFixture, release_dir: Path, tmp_path: Path, capsys
) -> None:
    hub.model("digits")
    environment = {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": hub.admin_token}
    session = Session(environment, connect=lambda login: AppTransport(hub.client))
    assert run(["release", "publish", str(release_dir), "--model", "digits"], session) == 0
    out = tmp_path / "deep" / "current"
    assert run(["release", "download", "digits", "1", "--out", str(out)], session) == 0
    files = {path.relative_to(release_dir): path.read_bytes() for path in release_dir.rglob("*") if path.is_file()}
    assert files == {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(["release", "download", "digits", "1", "--out", str(out)], session) == 5
    assert "is not empty" in capsys.readouterr().err
    blob = next(iter((release_dir / "blobs").iterdir())).name
    hub.hub.objects.delete(f"blobs/{blob}")
    assert run(["release", "download", "digits", "1", "--out", str(tmp_path / "torn")], session) == 3
    assert [path.name for path in tmp_path.iterdir() if "torn" in path.name] == []


def test_a_channel_is_bundled_with_a_viewers_token(hub: HubFixture, release_dir: Path, tmp_path: Path, capsys) -> None:
    hub.model("digits")
    environment = {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": hub.admin_token}
    session = Session(environment, connect=lambda login: AppTransport(hub.client))
    assert run(["release", "publish", str(release_dir), "--model", "digits"], session) == 0
    assert run(["channel", "set", "stable", "--model", "digits", "--release", "1"], session) == 0
    viewer = Session(
        {**environment, "EDGELOOP_TOKEN": hub.token("operator", role="viewer")},
        connect=lambda login: AppTransport(hub.client),
    )
    capsys.readouterr()
    out = tmp_path / "usb" / "bundle"
    command = ["release", "bundle", "--channel", "stable", "--model", "digits", "--out", str(out), "--json"]
    assert run(command, viewer) == 0
    made = msgspec.json.decode(capsys.readouterr().out)
    assert (made["channel"], made["releases"]) == ("stable", {"digits": [1]})
    files = [path for path in out.rglob("*") if path.is_file()]
    assert (made["files"], made["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert made["valid_until"] > hub.clock()
    assert (out / "metadata" / "1.root.json").read_bytes() == hub.hub.objects.get("tuf/metadata/1.root.json").data
    for path in (out / "blobs").iterdir():
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()
    assert run(command, viewer) == 5, "what is there stays"
    assert run(["release", "bundle", "--channel", "none", "--out", str(tmp_path / "other")], viewer) == 3
    assert not (tmp_path / "other").exists()


def test_a_publisher_signs_with_a_key_that_the_hub_never_had(tmp_path: Path, release_dir: Path, monkeypatch) -> None:
    hub = make_hub(tmp_path, release_key="external")
    hub.model("digits")
    environment = {
        "EDGELOOP_HUB": "http://hub",
        "EDGELOOP_TOKEN": hub.admin_token,
        "EDGELOOP_PASSPHRASE": "test passphrase",
    }
    session = Session(environment, connect=lambda login: AppTransport(hub.client))
    (key,) = [path for path in hub.offline.iterdir() if "release" in path.name]
    assert run(["release", "publish", str(release_dir), "--model", "digits", "--key", str(key)], session) == 0
    assert Client(AppTransport(hub.client), hub.admin_token).release("digits", 1).status == "published"


LISTS = {
    "/api/v1/tokens": ["token", "list"],
    "/api/v1/devices": ["device", "list"],
    "/api/v1/models": ["model", "list"],
    "/api/v1/models/digits/releases": ["release", "list", "digits"],
    "/api/v1/channels": ["channel", "list"],
    "/api/v1/rollouts": ["rollout", "status"],
    "/api/v1/samples?model=digits": ["sample", "list", "--model", "digits"],
    "/api/v1/snapshots": ["snapshot", "list"],
    "/api/v1/jobs": ["job", "list"],
    "/api/v1/audit?newest=true": ["audit", "list"],
}
THINGS = {
    "/api/v1/models/digits": ["model", "show", "digits"],
    "/api/v1/models/digits/releases/1": ["release", "show", "digits", "1"],
    "/api/v1/channels/stable": ["channel", "show", "stable"],
    "/api/v1/devices/d1": ["device", "show", "d1"],
    "/api/v1/devices/d1/explain": ["channel", "explain", "d1"],
}


@pytest.fixture
def filled(hub: HubFixture) -> HubFixture:
    """A hub that has one of most things."""
    hub.model("digits")
    hub.release()
    hub.release(seed=1)
    client = Client(AppTransport(hub.client), hub.admin_token)
    client.set_channel_model("stable", "digits", EntryChanges(release=1, audit={"auditor": 1}))
    add_device(hub, "d1", site="berlin")
    client.create_rollout(NewRollout(model="digits", release=2, channel="stable", guard={"evidence": "install"}))
    return hub


@pytest.mark.parametrize(("path", "command"), [*LISTS.items(), *THINGS.items()], ids=lambda value: str(value))
def test_what_a_command_prints_as_json_is_what_the_hub_sent(
    filled: HubFixture, capsys: pytest.CaptureFixture[str], path: str, command: list[str]
) -> None:
    session = Session(
        {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": filled.admin_token},
        connect=lambda login: AppTransport(filled.client),
    )
    capsys.readouterr()
    assert run([*command, "--json"], session) == 0
    printed = msgspec.json.decode(capsys.readouterr().out)
    sent = filled.client.get(path, headers=filled.auth()).json()
    sent.pop("next", None)
    assert printed == sent
    assert run(command, session) == 0, "and a table of it is made, too"


def test_the_how_to_is_what_works(filled: HubFixture, capsys: pytest.CaptureFixture[str]) -> None:
    (live,) = Client(AppTransport(filled.client), filled.admin_token).rollouts()
    Client(AppTransport(filled.client), filled.admin_token).order_rollout(live.id, "abort")
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "call-the-api.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    with serving(create_app(filled.hub)) as (address, _):
        here = code.replace('"https://127.0.0.1:8080", ca=Path("hub/keys/ca.pem")', f'"http://{address}"')
        exec(here.replace("el1.…", filled.admin_token), {})
    assert "d1 online" in capsys.readouterr().out
    wrong = {"model": "digits", "release": 2, "channel": "stable", "stagess": [100]}
    said = filled.client.post("/api/v1/rollouts", json=wrong, headers=filled.auth()).json()
    assert f'"error": "{said["error"]}"' in page and f'"subject": "{said["subject"]}"' in page
