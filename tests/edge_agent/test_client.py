"""The party at the address that an agent left behind: it, nobody, or somebody else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from starlette.responses import Response

from edge_agent import client, status_lines
from edge_agent.errors import UnreachableError
from edge_agent.host.lock import agent_lock
from edge_agent.main import main
from tests.support.agent_process import enrolled
from tests.support.server import serving

OTHER = json.dumps({"device": "other", "pid": 2, "models": {"digits": {"state": "committed", "active": 9}}}).encode()
STRANGERS = [(200, b"<html>hello</html>"), (404, b"nope"), (200, OTHER), (200, b"[]"), (500, b'{"pid": 1}')]


def leave(directory: Path, address: str, pid: int = 1) -> None:
    (directory / "run.json").write_text(json.dumps({"address": address, "pid": pid}))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return enrolled(tmp_path / "agent")


@pytest.mark.parametrize("answer", STRANGERS)
@pytest.mark.parametrize("runs", [True, False])
def test_a_stranger_at_a_dead_agents_address_is_not_believed(directory: Path, answer, runs, capsys) -> None:
    np.save(directory / "x.npy", np.zeros((1, 4), np.float32))
    with serving(Response(answer[1], answer[0])) as (where, _):
        leave(directory, f"http://{where}")
        lock = agent_lock(directory)
        if runs:
            lock.__enter__()
        try:
            document = client.status(directory)
            assert main(["infer", "digits", "--input", str(directory / "x.npy"), "--dir", str(directory)]) == 6
        finally:
            if runs:
                lock.__exit__(None, None, None)
    assert (document["running"], document["source"], document["models"]) == (runs, "files", {})
    said = capsys.readouterr().err
    assert ("is not the agent that runs" if runs else "no agent runs") in said and "try: " in said


def test_one_that_starts_is_not_called_stopped(directory: Path, capsys) -> None:
    for prepare in (
        lambda: None,
        lambda: leave(directory, "http://127.0.0.1:9"),
        lambda: (directory / "run.json").write_text("{"),
    ):
        prepare()
        with agent_lock(directory):
            assert main(["status", "--dir", str(directory)]) == 0
        assert capsys.readouterr().out.startswith(
            f"agent running and does not answer (yet); this is what its files say in {directory}\n"
        )
    assert main(["status", "--dir", str(directory)]) == 0
    assert capsys.readouterr().out.startswith("agent stopped; this is what its files say")


def test_the_agent_itself_is_believed(directory: Path) -> None:
    body = json.dumps({"pid": os.getpid(), "models": {}}).encode()
    with serving(Response(body)) as (where, _), agent_lock(directory):
        leave(directory, f"http://{where}", os.getpid())
        document = client.status(directory)
    assert (document["running"], document["source"]) == (True, "agent")
    assert status_lines.lines(document, directory)[0] == f"agent running in {directory}"


def test_an_address_that_is_no_agents_says_so() -> None:
    with serving(Response(b"<html>")) as (where, _), pytest.raises(UnreachableError, match="is no agent"):
        client.infer("digits", {"": np.zeros((1, 4), np.float32)}, url=f"http://{where}")
