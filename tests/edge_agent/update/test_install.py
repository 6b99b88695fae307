"""Asking a running agent to install: one request at a time, and each has an answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_agent.errors import AgentError
from edge_agent.update import install
from edge_agent.update.install import ANSWER, REQUEST, Installer, InstallRequest, InstallResult, ask_agent_to_install
from fleet.protocol.codec import decode_json, encode_json


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(install, "TICK_S", 0.005)


class Noting(Installer):
    """Installs nothing, and says which folder it was."""

    during = staticmethod(lambda: None)

    async def _install(self, updater, folder: Path, name: str) -> InstallResult:
        await asyncio.to_thread(self.during)
        return InstallResult(id=name, detail=folder.name)


@contextlib.contextmanager
def serving(installer: Installer):
    """The running agent's side, in a thread."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(installer.run(None))  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()


def until(happened) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_two_who_ask_at_once_each_get_their_own_answer(tmp_path: Path, monkeypatch) -> None:
    installer, waits = Noting(tmp_path), threading.Event()
    told = install._told

    def watched(*arguments) -> bool:
        done = told(*arguments)
        if not done:
            waits.set()
        return done

    monkeypatch.setattr(install, "_told", watched)
    # the first install ends only when the second one has found it under way
    monkeypatch.setattr(Noting, "during", staticmethod(lambda: waits.wait(60)))
    with serving(installer), ThreadPoolExecutor() as pool:
        asked = [
            pool.submit(ask_agent_to_install, tmp_path, tmp_path / name, patience_s=10, pause=0.001)
            for name in ("one", "two")
        ]
        outcomes = [one.result() for one in asked]
    assert [(o.detail, o.by) for o in outcomes] == [("one", "agent"), ("two", "agent")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [ANSWER]


def test_a_request_that_cannot_be_read_has_an_answer(tmp_path: Path) -> None:
    (tmp_path / REQUEST).write_bytes(b"\0")
    with serving(Noting(tmp_path)):
        until(lambda: not (tmp_path / REQUEST).exists())
    outcome = decode_json((tmp_path / ANSWER).read_bytes(), InstallResult, limit=1 << 20)
    assert outcome.reason == "bad-request" and outcome.detail and outcome.hint


def test_a_disk_that_takes_no_answer_ends_the_request_all_the_same(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / ANSWER).mkdir()  # nothing can be written in its place
    (tmp_path / REQUEST).write_bytes(encode_json(InstallRequest(id="x", folder="/bundle")))
    with serving(Noting(tmp_path)):
        until(lambda: not (tmp_path / REQUEST).exists())
    assert install.last(tmp_path) is None


def test_who_asked_hears_of_it(tmp_path: Path) -> None:
    (tmp_path / ANSWER).write_bytes(encode_json(InstallResult(reason="bad-request", detail="of another one")))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask_agent_to_install, tmp_path, tmp_path / "one", patience_s=10, pause=0.001)
        until((tmp_path / REQUEST).exists)
        (tmp_path / "draft").write_bytes(encode_json(InstallResult(reason="bad-request", detail="of this one")))
        (tmp_path / "draft").replace(tmp_path / ANSWER)
        (tmp_path / REQUEST).unlink()
        assert asked.result().detail == "of this one"
        asked = pool.submit(ask_agent_to_install, tmp_path, tmp_path / "one", patience_s=10, pause=0.001)
        until((tmp_path / REQUEST).exists)
        (tmp_path / REQUEST).unlink()  # an agent whose disk is full
        with pytest.raises(AgentError, match="its answer is missing"):
            asked.result()
