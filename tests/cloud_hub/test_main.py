"""The `cloud-hub` command as an operator types it."""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from cloud_hub import main
from fleet.serving.seldom import Seldom
from tests.support.commands import call
from tests.support.hub_process import ROOT, START_S, cloud_hub, free_port

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("EDGELOOP_")}


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return call("cloud-hub", *arguments, **{"EDGELOOP_PASSPHRASE": "secret", **more})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub made by `init`, in a process of its own."""
    base = tmp_path_factory.mktemp("hub")
    token = base / "token"
    done = cloud_hub("init", base / "hub", "--offline-keys", base / "off", "--token-file", token, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["admin_token"] == token.read_text().strip()
    assert token.stat().st_mode & 0o077 == 0
    return base


def test_help_is_light() -> None:
    code = (
        "import sys, cloud_hub.main; print([m for m in ('fastapi', 'sqlmodel', 'tuf', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for command in ("init", "serve", "worker", "keys renew", "keys rotate"):
        done = run(*command.split(), "--help")
        assert done.returncode == 0 and "Example:" in done.stdout, done.stdout


def test_a_worker_that_waits_for_jobs_has_not_loaded_torch() -> None:
    """It would hold 180 MB beside every hub, where only the process that a job runs in needs it."""
    code = "import sys, cloud_hub.training.kinds; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_init_refuses(made: Path, tmp_path: Path) -> None:
    again = run("init", str(made / "hub"), "--offline-keys", str(tmp_path / "x"))
    assert again.returncode == 5 and "holds a hub already" in again.stderr and "try:" in again.stderr
    inside = run("init", str(tmp_path / "h"), "--offline-keys", str(tmp_path / "h" / "off"))
    assert inside.returncode == 4 and "must not lie inside" in inside.stderr
    naked = run("init", str(tmp_path / "h"), "--offline-keys", str(tmp_path / "o"), EDGELOOP_PASSPHRASE="")
    assert naked.returncode == 1 and "--passphrase-file" in naked.stderr
    assert not (tmp_path / "h").exists()
    assert run("init", str(tmp_path / "h")).returncode == 2
    wrong = run("init", str(tmp_path / "h"), "--offline-keys", str(tmp_path / "o"), "--release-key", "lost")
    assert wrong.returncode == 1 and "release_key" in wrong.stderr


def test_serve_refuses(made: Path, tmp_path: Path) -> None:
    assert run("serve", str(tmp_path / "none")).returncode == 3
    open_net = run("serve", str(made / "hub"), "--host", "0.0.0.0", "--no-tls")
    assert open_net.returncode == 4 and "not loopback" in open_net.stderr
    key = made / "hub" / "root.pem"
    key.write_bytes((made / "off" / "root.pem").read_bytes())
    try:
        inside = run("serve", str(made / "hub"))
    finally:
        key.unlink()
    assert inside.returncode == 4 and "offline key lies in the hub's directory" in inside.stderr
    typo = run("serve", str(made / "hub"), EDGELOOP_HUB_PORT="many")
    assert typo.returncode == 1 and "port" in typo.stderr


def test_serve_answers_over_tls_and_ends_on_sigterm(made: Path, tmp_path: Path) -> None:
    port = free_port()
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "cloud_hub", "serve", str(made / "hub"), "--port", str(port)],
        env={**ENVIRONMENT, "EDGELOOP_HUB_BROKER__PORT": str(free_port())},
        stdout=log,
        stderr=log,
    )
    context = ssl.create_default_context(cafile=str(made / "hub" / "keys" / "ca.pem"))
    deadline = time.monotonic() + START_S
    try:
        while True:
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", context=context, timeout=5) as answer:
                    assert json.load(answer)["status"] == "ok"
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=START_S)
        log.close()
    text = (tmp_path / "log").read_text()
    assert code == 0, text
    assert f"hub at https://127.0.0.1:{port}" in text


def test_keys(made: Path, tmp_path: Path) -> None:
    offline = ("--offline-keys", str(made / "off"))
    file = tmp_path / "passphrase"
    file.write_text("secret\n")
    done = run("keys", "rotate", str(made / "hub"), "rollout", *offline, "--passphrase-file", str(file), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["key"] == "rollout", done.stderr
    done = run("keys", "renew", str(made / "hub"), *offline, "--json")
    assert json.loads(done.stdout) == {"renewed": ["root", "targets", "models"]}
    wrong = run("keys", "renew", str(made / "hub"), *offline, EDGELOOP_PASSPHRASE="wrong")
    assert wrong.returncode == 4 and "passphrase" in wrong.stderr
    assert run("keys", "rotate", str(made / "hub"), "none", *offline).returncode == 1


@pytest.mark.parametrize(("level", "bounded"), [("info", True), ("debug", False)])
def test_nobody_can_flood_the_hubs_log(monkeypatch: pytest.MonkeyPatch, level: str, bounded: bool) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    main._log(level, "text", role="all")
    (handler,) = root.handlers
    assert any(isinstance(one, Seldom) for one in handler.filters) is bounded
