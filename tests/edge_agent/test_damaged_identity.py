"""A disk that lost a file of the identity: what is installed serves, and the status says what is wrong."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent import client
from edge_agent.agent import Agent
from edge_agent.config import load_config
from edge_agent.errors import IdentityError, UnreachableError, UpdateError
from edge_agent.identity.certificates import fits
from edge_agent.identity.enroll import FILE, FIRST_ROOT, enroll, load_enrollment
from edge_agent.identity.keys import load_or_make_key
from edge_agent.main import main
from edge_agent.update.disk.state import StateFile
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol.codec import encode_json
from tests.support import models
from tests.support.agent_process import enrolled, running
from tests.support.device import Device, claim, follow, listening, publish
from tests.support.hub import HubFixture, make_hub

X = np.array([[9, 0, 0, 0]], np.float32)


def install(directory: Path) -> None:
    """Release 1, committed."""
    held = models.installed(directory, data=models.litert_bytes("int8"), runtime="litert", threshold=0.9)
    StateFile(directory).put_model("tiny", ModelState(state="committed", active=held))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device that has committed release 1 and is told to use TLS."""
    directory = enrolled(tmp_path / "device")
    known = load_enrollment(directory)
    mqtt = msgspec.structs.replace(known.mqtt, tls=True)
    (directory / "identity" / FILE).write_bytes(encode_json(msgspec.structs.replace(known, mqtt=mqtt)))
    install(directory)
    return directory


def cut(name: str):
    """Only the first half of a file reached the disk."""
    return lambda identity: (identity / name).write_bytes(
        (identity / name).read_bytes()[: 200 if "pem" in name else 60]
    )


def gone(name: str):
    return lambda identity: (identity / name).unlink()


def another_key(identity: Path) -> None:
    (identity / "device.key").unlink()
    load_or_make_key(identity / "device.key")


DAMAGES = {
    "no enrolment": (gone(FILE), "not-enrolled"),
    "torn enrolment": (cut(FILE), "not-enrolled"),
    "no authority": (gone("ca.pem"), "not-enrolled"),
    "torn authority": (cut("ca.pem"), "not-enrolled"),
    "no key": (gone("device.key"), "not-enrolled"),
    "torn key": (cut("device.key"), "bad-certificate"),
    "another key": (another_key, "bad-certificate"),
    "no certificate": (gone("device.crt"), "bad-certificate"),
    "torn certificate": (cut("device.crt"), "bad-certificate"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_installed_serves_with_a_damaged_identity(device: Path, damage: str) -> None:
    harm, word = DAMAGES[damage]
    harm(device / "identity")

    async def scenario() -> None:
        agent = Agent(load_config(device))
        try:
            await agent.updater.start()
            document = agent.status()
            assert document["models"]["tiny"]["serving"] == 1
            assert (document["problem"], document["online"]) == (word, False)
            assert "enrol" in document["hint"]
            assert document["device"] == ("" if "enrolment" in damage else "cam-1")
        finally:
            agent.cloud.close()
            agent.signer.close()
            agent.database.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", ["torn enrolment", "torn certificate"])
def test_the_process_answers_and_says_what_is_wrong(device: Path, damage: str) -> None:
    harm, word = DAMAGES[damage]
    harm(device / "identity")
    with running(device, "--port", "0") as (_, address):
        assert client.infer("tiny", X, url=address).parameters["release"] == 1
        deadline = time.monotonic() + 120
        while not json.loads((device / "state.json").read_bytes())["looked"]["problem"]:
            assert time.monotonic() < deadline, "no look has ended"
            time.sleep(0.02)
        document = client.status(device)
        assert document["problem"] == word and document["running"] is True


@pytest.mark.parametrize("damage", ["no enrolment", "torn authority", "no key"])
def test_no_call_leaves_a_device_that_does_not_know_its_hub(device: Path, damage: str) -> None:
    DAMAGES[damage][0](device / "identity")

    async def scenario() -> None:
        agent = Agent(load_config(device))
        try:
            with pytest.raises(UnreachableError, match="the hub is not asked"):
                agent.links.hub.request("GET", "/device/me")
        finally:
            agent.cloud.close()
            agent.signer.close()
            agent.database.close()

    asyncio.run(scenario())


def test_without_anything_installed_the_command_says_what_to_do(tmp_path: Path, capsys) -> None:
    directory = enrolled(tmp_path / "device")
    (directory / "identity" / FILE).write_bytes(b"{")
    assert main(["run", "--dir", str(directory)]) != 0
    assert "edge-agent enroll" in capsys.readouterr().err


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    return make_hub(tmp_path, start=time.time())


@pytest.mark.parametrize("harm", [gone("device.crt"), cut("device.crt")], ids=["gone", "torn"])
def test_a_look_renews_a_certificate_that_the_disk_damaged(hub: HubFixture, tmp_path: Path, harm) -> None:
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        identity = device.config.identity
        harm(identity)
        assert not fits(identity)
        device.look()
        assert fits(identity) and device.updater.file.state.looked.problem == ""
        device.look()


def test_a_look_that_was_begun_without_an_enrolment_knows_it_once_it_is_back(hub: HubFixture, tmp_path: Path) -> None:
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        kept = (device.config.identity / FILE).read_bytes()
        device.enrollment = msgspec.structs.replace(device.enrollment, device_id="", channel="")
        device.restart()
        (device.config.identity / FILE).unlink()
        with pytest.raises(Exception, match="not enrolled"):
            device.look()
        (device.config.identity / FILE).write_bytes(kept)
        device.look()
        assert device.activator.serving == {"tiny": 1}


@pytest.mark.parametrize("harm", [gone(FIRST_ROOT), cut(FIRST_ROOT)], ids=["gone", "torn"])
def test_a_damaged_first_root_is_not_the_hubs_doing(hub: HubFixture, tmp_path: Path, harm) -> None:
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        harm(device.config.identity)
        with pytest.raises(UpdateError, match="no first root") as caught:
            device.look()
        assert (caught.value.reason, "enrol it again" in caught.value.hint) == ("not-enrolled", True)


@pytest.mark.parametrize("name", [FILE, "device.key", "ca.pem", "device.crt"])
def test_enrolling_again_mends_what_was_damaged(hub: HubFixture, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "agent"
    with listening(hub) as url:
        token = claim(hub)
        enroll(url, token, directory, name="cam-1", agent="test", hardware={})
        before = load_enrollment(directory)
        (directory / "identity" / name).write_bytes(b"\0" * 100)
        if name == "device.key":  # another key is another device
            token, before = claim(hub), msgspec.structs.replace(before, device_id="cam-2")
        again = enroll(url, token, directory, name=before.device_id, agent="test", hardware={})
        assert again.device_id == before.device_id and fits(directory / "identity")
    if name == "device.key":
        assert (directory / "identity" / "device.key.damaged").read_bytes() == b"\0" * 100


def test_a_device_that_is_another_hubs_is_still_refused(hub: HubFixture, tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "agent")
    with listening(hub) as url, pytest.raises(Exception, match="another hub"):
        enroll(url, claim(hub), directory, name="cam-1", agent="test", hardware={})
    (directory / "identity" / FILE).unlink()
    with pytest.raises(IdentityError):
        load_enrollment(directory)
