"""`cloud-hub serve` as processes: one owner, its own ports, a broker that only its own hub ends, true health."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud_hub import main
from cloud_hub.addresses import Endpoint
from cloud_hub.opening.listening import listen_at
from tests.support.commands import call
from tests.support.hub_process import HubProcess, cloud_hub, free_port, serving
from tests.support.postgres import create_database
from tests.support.require import require


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return call("cloud-hub", *arguments, EDGELOOP_PASSPHRASE="secret")


def make(base: Path, *arguments: str) -> Path:
    done = run("init", base / "hub", "--offline-keys", base / "off", *arguments)
    assert done.returncode == 0, done.stderr
    return base / "hub"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that serves, with Mosquitto."""
    require("mosquitto", "mosquitto")
    with serving(make(tmp_path_factory.mktemp("live"))) as hub:
        yield hub


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # a zombie has none
    except OSError:
        return False


def kept(hub: HubProcess) -> dict[str, bytes]:
    """The files that a running hub does not write by itself."""
    folders = [hub.directory / "keys", hub.directory / "broker", hub.directory]
    names = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    return {
        str(path): path.read_bytes()
        for path in names
        if path.suffix in (".pem", ".key", ".toml", ".conf", ".pid", ".lock")
    }


def test_it_says_where_it_is_and_which_broker_it_chose(live: HubProcess) -> None:
    said = live.log()
    assert f"hub at {live.url} " in said and f"mosquitto) on 127.0.0.1:{live.broker_port}" in said
    assert said.count("warning: devices on other machines cannot reach 127.0.0.1") == 2


def test_a_second_one_on_the_directory_touches_nothing(live: HubProcess) -> None:
    before, broker = kept(live), live.mosquitto()
    second = cloud_hub("serve", live.directory, "--port", free_port(), "--broker-port", free_port())
    assert second.returncode == 5, second.stderr
    assert f"process {live.process.pid} (cloud-hub serve) owns the hub in" in second.stderr and "try: " in second.stderr
    assert kept(live) == before and alive(broker)
    assert live.get("/readyz")[0] == 200


def test_commands_on_the_directory_of_one_that_runs(live: HubProcess) -> None:
    offline = ("--offline-keys", live.directory.parent / "off")
    rotated = run("keys", "rotate", live.directory, "rollout", *offline)
    assert rotated.returncode == 5 and f"process {live.process.pid}" in rotated.stderr
    renewed = run("keys", "renew", live.directory, *offline)
    assert renewed.returncode == 0, renewed.stderr
    again = run("init", live.directory, "--offline-keys", live.directory.parent / "other")
    assert again.returncode == 5 and "holds a hub already" in again.stderr
    assert not (live.directory.parent / "other").exists() and live.get("/readyz")[0] == 200


def test_another_hub_on_a_taken_port_is_refused_and_ends_nobody(live: HubProcess, tmp_path: Path) -> None:
    other, broker = make(tmp_path), live.mosquitto()
    refused = run("serve", other, "--port", free_port(), "--broker-port", live.broker_port)
    assert refused.returncode == 5, refused.stderr
    assert f"port {live.broker_port} (127.0.0.1:{live.broker_port}), which the broker wants, is taken" in refused.stderr
    assert f"by process {broker} (mosquitto)" in refused.stderr and "--broker-port" in refused.stderr
    refused = run("serve", other, "--port", live.port, "--broker-port", free_port())
    assert refused.returncode == 5 and f"port {live.port} " in refused.stderr and "HTTP wants" in refused.stderr
    assert f"by process {live.process.pid} " in refused.stderr
    assert alive(broker) and live.get("/readyz")[0] == 200


def test_http_and_broker_on_one_port(tmp_path: Path) -> None:
    port = str(free_port())
    refused = run("serve", make(tmp_path), "--port", port, "--broker-port", port)
    assert refused.returncode == 5 and "is taken by this very hub" in refused.stderr


def test_the_leftover_of_a_killed_hub_is_ended_by_the_next_one(tmp_path: Path) -> None:
    require("mosquitto", "mosquitto")
    directory = make(tmp_path)
    with serving(directory) as first:
        leftover = first.mosquitto()
        first.stop(signal.SIGKILL)
        assert alive(leftover)
    with serving(directory) as second:
        assert not alive(leftover) and alive(second.mosquitto())
        assert "ending the mosquitto that an earlier hub left behind" in second.log()


def test_a_broker_that_is_gone_is_said(tmp_path: Path) -> None:
    binary = require("mosquitto", "mosquitto")
    link = tmp_path / "mosquitto"
    link.symlink_to(binary)
    with serving(make(tmp_path), EDGELOOP_HUB_BROKER__MOSQUITTO=str(link)) as hub:
        link.unlink()
        link.symlink_to("/bin/false")
        os.kill(hub.mosquitto(), signal.SIGKILL)
        document = hub.until("/readyz", 503)
        while (
            document["parts"]["broker"]["state"] != "failed" or "mosquitto" not in document["parts"]["broker"]["reason"]
        ):
            document = hub.until("/readyz", 503)
        assert document["status"] == "failing" and document["parts"]["database"]["state"] == "ok"
        code, lives = hub.get("/healthz")
        assert (code, lives["status"]) == (200, "failing")
        link.unlink()
        link.symlink_to(binary)
        assert hub.until("/readyz", 200)["status"] == "ok"


def test_two_hubs_on_one_database_and_broker_stay_connected(tmp_path: Path, postgres: str) -> None:
    """They were both `_hub`, and ended each other's connection 148 times in 161 seconds."""
    require("mosquitto", "mosquitto")
    url = create_database(postgres, "edgeloop_replicas")
    first = make(tmp_path, "--database", url, "--objects", str(tmp_path / "objects"))
    shutil.copytree(first, tmp_path / "replica")
    with serving(first) as one:
        where = ("--broker-port", str(one.broker_port))
        with serving(tmp_path / "replica", *where, EDGELOOP_HUB_BROKER__KIND="external") as two:
            for _ in range(20):
                assert one.get("/readyz")[0] == two.get("/readyz")[0] == 200
        log = (first / "broker" / "mosquitto.log").read_text()
    assert log.count(" as _hub (") == log.count(" as _hub-1 (") == 1, log
    assert "the connection to the broker is gone" not in one.log() + two.log()


# ---- what keeps it from starting -------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub that never served; nobody has its database open, since the process that made it has ended."""
    base = tmp_path_factory.mktemp("stopped")
    done = cloud_hub("init", base / "hub", "--offline-keys", base / "off")
    assert done.returncode == 0, done.stderr
    return base / "hub"


@pytest.fixture
def refused(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Break a copy of the hub, then `serve` it in this process: its exit code and words."""

    def run(break_it: Any, *arguments: str) -> tuple[int, str]:
        directory = tmp_path / "hub"
        shutil.copytree(stopped, directory)
        break_it(directory)
        ports = ("--port", str(free_port()), "--broker-port", str(free_port()))
        monkeypatch.setattr(sys, "argv", ["cloud-hub", "serve", str(directory), *(arguments or ports)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        error = capsys.readouterr().err
        assert "Traceback" not in error and "\ntry: " in error, error
        return int(ended.value.code or 0), error

    return run


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (lambda hub: cut(hub / "hub.db", 10_000), 1, "database is damaged"),
        (lambda hub: cut(hub / "hub.db", 50), 1, "database is damaged"),
        (lambda hub: cut(hub / "hub.db", 0), 3, "hub.db is empty"),
        (lambda hub: (hub / "hub.db").unlink(), 3, "hub.db is missing"),
        (lambda hub: (hub / "hub.db").write_bytes(b"no database at all" * 500), 1, "database is damaged"),
        (lambda hub: (hub / "keys" / "token-secret").unlink(), 3, "token-secret is missing"),
        (lambda hub: cut(hub / "keys" / "token-secret", 5), 1, "has 5 bytes and should have 32"),
        (lambda hub: (hub / "keys" / "ca.key").unlink(), 3, "ca.key is missing"),
        (lambda hub: (hub / "keys" / "ca.pem").unlink(), 3, "ca.pem is missing"),
        (lambda hub: (hub / "keys" / "command.pem").unlink(), 3, "command.pem is missing"),
        (lambda hub: (hub / "keys" / "timestamp.pem").unlink(), 3, "timestamp.pem is missing"),
        (lambda hub: (hub / "hub.toml").write_text('database = "sqlite:///other.db"'), 3, "other.db is missing"),
        (lambda hub: (hub / "hub.toml").write_text('host = "198.51.100.7"'), 1, "cannot listen on 198.51.100.7:"),
        (lambda hub: (hub / "hub.toml").write_bytes(b"\xff\xfe"), 1, "hub.toml is not valid TOML"),
        (lambda hub: (hub / "hub.toml").write_text("prot = 1"), 1, "prot"),
    ],
)
def test_what_is_broken_is_a_sentence_with_a_hint(refused: Any, break_it: Any, code: int, words: str) -> None:
    found, error = refused(break_it)
    assert found == code and words in error, error


def test_a_hub_with_its_objects_where_a_file_lies(refused: Any) -> None:
    def break_it(hub: Path) -> None:
        shutil.rmtree(hub / "objects")
        (hub / "objects").write_text("")

    assert refused(break_it)[0] == 1


def test_a_taken_port_of_a_program_that_is_none_of_ours(refused: Any) -> None:
    port = free_port()
    (taken,) = listen_at(Endpoint("127.0.0.1", port), "HTTP", "--port")
    with taken:
        code, error = refused(lambda _: None, "--port", str(free_port()), "--broker-port", str(port))
    assert code == 5 and f"port {port} " in error
