"""Renewal on the device against a real hub, cut off after every step."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from edge_agent.config import load_config
from edge_agent.errors import DeniedError, IdentityError, UnreachableError
from edge_agent.identity import pairs
from edge_agent.identity.certificates import expires_at
from edge_agent.identity.enroll import load_enrollment
from edge_agent.identity.http import HubHttp
from edge_agent.identity.keys import load_key
from edge_agent.identity.renew import follow_broker, renew_pair
from edge_agent.update.messages import LookRequest, LookResult, Message, Ready
from edge_agent.update.worker import resolve_targets
from edge_agent.update.worker.process import Session
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.messages import DeviceMe, MqttEndpoint, RenewResponse
from tests.support.device import enrolled_with, publish
from tests.support.device import follow as follow_channel
from tests.support.hub import START, HubFixture, make_hub

DAY = 86_400


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    return make_hub(tmp_path)


@pytest.fixture
def device(hub: HubFixture, tmp_path: Path):
    with enrolled_with(hub, tmp_path / "agent") as directory:
        hub.clock.advance(46 * DAY)
        yield directory


class Cut(HubHttp):
    """A hub whose answer to `path` is lost, after it has done its work (or, with `before`, unasked)."""

    def __init__(self, directory: Path, path: str, *, before: bool = False) -> None:
        super().__init__(directory)
        self._path, self._before = path, before

    def ask(self, path, body, kind, timeout=30.0):
        if path == self._path and self._before:
            raise UnreachableError("cut off")
        answer = super().ask(path, body, kind, timeout)
        if path == self._path:
            raise UnreachableError("cut off")
        return answer


def reaches(device: Path) -> bool:
    """Tell whether a process that starts now is let in, and its key fits its certificate."""
    let_in = HubHttp(device).request("GET", "/device/me").status == 200
    identity = device / "identity"
    pairs.finish_replacement(identity)
    certificate = x509.load_pem_x509_certificate((identity / pairs.CERTIFICATE).read_bytes())
    return let_in and certificate.public_key() == load_key(identity / pairs.KEY).public_key()


def files(device: Path) -> set[str]:
    return {path.name for path in (device / "identity").iterdir()}


def test_a_fresh_key_and_certificate_take_the_place_of_the_old(device, hub):
    identity = device / "identity"
    old_key, old_end, before = (identity / pairs.KEY).read_bytes(), expires_at(identity), files(device)
    running = HubHttp(device)  # another process of the agent, which knows the old key
    running.log_in()
    renew_pair(HubHttp(device), identity)
    assert (identity / pairs.KEY).read_bytes() != old_key
    assert (identity / pairs.KEY).stat().st_mode & 0o777 == 0o600
    assert expires_at(identity) > old_end and files(device) == before
    assert reaches(device)
    running.log_in()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("path", ["/device/nonce", "/device/renew", "/device/token"])
def test_cut_off_anywhere_the_device_is_let_in_and_the_next_try_ends_it(device, path, before):
    first = expires_at(device / "identity")
    with pytest.raises(UnreachableError):
        renew_pair(Cut(device, path, before=before), device / "identity")
    assert reaches(device)
    renew_pair(HubHttp(device), device / "identity")
    assert reaches(device)
    assert expires_at(device / "identity") > first and not files(device) & {pairs.NEXT_KEY, pairs.NEXT_CERTIFICATE}


def test_cut_off_between_the_two_renames_the_replacement_is_finished(device, monkeypatch):
    renamed = []

    def rename(folder, old, new):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(old)
        (folder / old).replace(folder / new)

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "_rename", rename)
        with pytest.raises(KeyboardInterrupt):
            renew_pair(HubHttp(device), device / "identity")
    assert renamed == [pairs.NEXT_KEY] and pairs.NEXT_CERTIFICATE in files(device)
    assert reaches(device)
    assert pairs.NEXT_CERTIFICATE not in files(device)


def test_a_next_pair_that_the_hub_does_not_take_is_given_up(device):
    identity = device / "identity"
    with pytest.raises(UnreachableError):
        renew_pair(Cut(device, "/device/token", before=True), identity)
    foreign = device / "foreign"
    foreign.mkdir()
    from edge_agent.identity.keys import load_or_make_key

    load_or_make_key(foreign / "key")
    (foreign / "key").replace(identity / pairs.NEXT_KEY)  # another key than the hub has certified
    assert reaches(device)
    hub_door = HubHttp(device)
    hub_door.log_in()
    renew_pair(hub_door, identity)
    assert reaches(device) and pairs.NEXT_KEY not in files(device)


@pytest.mark.parametrize("path", ["/device/renew", "/device/token"])
def test_a_next_key_that_the_disk_damaged_gives_way(device, path):
    identity = device / "identity"
    with pytest.raises(UnreachableError):
        renew_pair(Cut(device, path, before=True), identity)
    (identity / pairs.NEXT_KEY).write_bytes(b"\0" * 100)
    assert reaches(device)
    renew_pair(HubHttp(device), identity)
    assert reaches(device) and pairs.NEXT_KEY not in files(device)


def test_a_revoked_device_is_told_so_and_keeps_what_it_has(device, hub):
    kept = (device / "identity" / pairs.KEY).read_bytes()
    assert hub.client.post("/api/v1/devices/cam-1/revoke", headers=hub.auth()).status_code == 200
    with pytest.raises(DeniedError, match="refuses this device") as caught:
        renew_pair(HubHttp(device), device / "identity")
    assert "enrol it with a" in caught.value.hint
    assert (device / "identity" / pairs.KEY).read_bytes() == kept


@pytest.mark.parametrize("what", ["another key's", "nonsense"])
def test_an_answer_that_is_no_certificate_for_this_key_is_refused(device, what):
    class Lying(HubHttp):
        def ask(self, path, body, kind, timeout=30.0):
            answer = super().ask(path, body, kind, timeout)
            if kind is not RenewResponse:
                return answer
            old = (device / "identity" / pairs.CERTIFICATE).read_text()
            return RenewResponse(certificate=old if what == "another key's" else "?", expires_at=0.0)

    with pytest.raises(IdentityError, match="certificate"):
        renew_pair(Lying(device), device / "identity")
    assert pairs.NEXT_CERTIFICATE not in files(device) and reaches(device)


def test_the_broker_that_the_hub_names_is_kept(device):
    before = load_enrollment(device)
    assert follow_broker(device, DeviceMe(device_id="cam-1", channel="stable")) is False
    assert follow_broker(device, DeviceMe(device_id="cam-1", channel="stable", mqtt=before.mqtt)) is False
    elsewhere = MqttEndpoint(host="broker.example", port=8883, tls=True, prefix="acme/edgeloop")
    assert follow_broker(device, DeviceMe(device_id="cam-1", channel="stable", mqtt=elsewhere)) is True
    assert load_enrollment(device).mqtt == elsewhere
    assert load_enrollment(device).device_id == "cam-1"


@pytest.mark.parametrize(
    "changes",
    [{"host": "x" * ((1 << 20) - 200)}, {"host": ""}, {"port": 0}, {"port": 1 << 16}, {"prefix": "p" * 256}],
    ids=["long host", "no host", "no port", "high port", "long prefix"],
)
def test_a_broker_that_can_be_none_is_not_followed_and_the_one_before_stays(device, changes):
    before = load_enrollment(device)
    wrong = msgspec.structs.replace(MqttEndpoint(host="broker.example", port=8883, tls=True), **changes)
    mine = decode_json(encode_json(DeviceMe(device_id="cam-1", channel="stable", mqtt=wrong)), DeviceMe, limit=1 << 20)
    with pytest.raises(IdentityError, match="names a broker") as caught:
        follow_broker(device, mine)
    assert "hub.toml" in caught.value.hint and len(str(caught.value)) < 300
    assert load_enrollment(device) == before


def test_the_look_goes_on_after_a_broker_that_can_be_none(device, hub, tmp_path, monkeypatch):
    """The signed metadata counts, whatever the hub says beside it."""
    hub.hub.publisher.refresh(force=True)
    follow_channel(hub, publish(hub, tmp_path))
    said = io.BytesIO()
    asked = msgspec.json.encode(LookRequest(device_id="cam-1", channel="stable", kinds=("onnx",)))
    session = Session(load_config(device), [asked], said, clock=lambda: START + 46 * DAY)
    wrong = MqttEndpoint(host="", port=0, tls=False)
    monkeypatch.setattr(resolve_targets, "me", lambda *_: DeviceMe(device_id="cam-1", channel="stable", mqtt=wrong))
    session.run()
    first, *_, last = [msgspec.json.decode(line, type=Message) for line in said.getvalue().splitlines()]
    assert isinstance(first, LookResult) and isinstance(last, Ready)
    assert first.looked.problem == "broker-not-followed" and "port 0" in first.looked.hint
