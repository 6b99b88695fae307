"""`edge-agent status` of a device whose agent does not run tells the same as a running one."""

from __future__ import annotations

import json

import pytest

from edge_agent.config import AgentConfig
from edge_agent.main import main
from edge_agent.status import of_files, state_of
from edge_agent.status_lines import lines
from edge_agent.update.disk.state import Looked, StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState, UpdateTarget
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import enrolled, running


@pytest.fixture
def device(tmp_path):
    """A device that serves release 1 and was cut off while it fetched release 2."""
    directory = enrolled(tmp_path / "device")
    release = models.release(directory / "blobs")
    digest = Store(directory).put_manifest(encode_manifest(release.manifest))
    held = HeldRelease(release=1, variant=release.variant.name, manifest=digest)
    following = HeldRelease(release=2, variant=release.variant.name, manifest=digest)
    blob = directory / "blobs" / release.variant.blob.sha256
    blob.with_name(blob.name + ".part").write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    file = StateFile(directory)
    file.keep_looked(Looked(tuf={"root": 3}, tuf_expires={"root": 1.9e9}, problem="unreachable", hint="plug it in"))
    state = ModelState(
        state="fetching",
        active=held,
        target=UpdateTarget(held=following),
        reason="interrupted",
        detail="cut",
        hint="wait",
    )
    file.put_model("tiny", state)
    return directory, blob


def shown(directory, capsys):
    assert main(["status", "--dir", str(directory), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_stopped_agents_files_tell_where_it_stands(device, capsys):
    directory, blob = device
    document = shown(directory, capsys)
    assert (document["running"], document["source"]) == (False, "files")
    assert (document["tuf"], document["tuf_expires"]) == ({"root": 3}, {"root": 1.9e9})
    assert (document["problem"], document["hint"], document["clock"]) == ("unreachable", "plug it in", "trusted")
    model = document["models"]["tiny"]
    assert (model["state"], model["active"], model["target"], model["progress"]) == ("fetching", 1, 2, 1.0)
    assert (model["reason"], model["detail"], model["hint"]) == ("interrupted", "cut", "wait")
    files = [*(directory / "blobs").iterdir(), *(directory / "releases").iterdir()]
    assert document["disk"]["store_bytes"] == sum(path.stat().st_size for path in files)
    assert document["disk"]["free_bytes"] > 0 and document["disk"]["reserve_bytes"] == 16 << 20
    blob.unlink()
    assert 0 < shown(directory, capsys)["models"]["tiny"]["progress"] < 1


def test_people_are_told_which_source_it_is(device, capsys):
    directory, _ = device
    assert main(["status", "--dir", str(directory)]) == 0
    text = capsys.readouterr().out
    for words in (
        "stopped; this is what its files say",
        "root: version 3, until 2030-03-17",
        "16.8 MB kept free",
        "cut, wait",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (15_735, "15.7 kB"), (78_106_845_184, "78.1 GB")]
)
def test_sizes_of_the_disk_are_for_people(tmp_path, size, text):
    disk = {"store_bytes": size, "free_bytes": size, "reserve_bytes": size}
    (said,) = [line for line in lines({"disk": disk}, tmp_path) if "disk:" in line]
    assert said == f"  disk: {text} of releases, {text} free, {text} kept free"


def test_a_running_agent_tells_the_same_fields(device, capsys):
    directory, _ = device
    before = shown(directory, capsys)
    with running(directory, "--port", "0"):
        document = shown(directory, capsys)
    assert (document["running"], document["source"]) == (True, "agent")
    assert set(before) <= set(document)
    assert set(before["models"]["tiny"]) <= set(document["models"]["tiny"])
    assert document["models"]["tiny"]["serving"] == 1


def test_what_had_no_request_yet_and_what_was_refused_is_said(device):
    directory, _ = device
    file = StateFile(directory)
    file.put_model("tiny", ModelState(state="committed", active=file.model("tiny").active, untried=True))
    document = of_files(AgentConfig(dir=directory), state_of(directory))
    assert "untried: committed by its self-test" in lines(document, directory)[-1]
    counts = {"serving": 2, "variant": "v", "runtime": "r", "requests": 9, "failures": 0, "refused": 3}
    refused = {"newly_refused": 2, "refusal": "input 'x' is missing"}
    said = lines({"models": {"tiny": {"state": "committed", **counts, **refused}}}, directory)[-1]
    assert "9 requests, 0 failed, 3 refused, 2 of them the release before took: input 'x' is missing" in said
