"""The agent as a systemd service: what is written, by systemd's own tools, and what stays when it goes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent.errors import AgentError, ConflictError, DeniedError, NotFoundError, UsageError
from edge_agent.host import service
from edge_agent.host.service import ServiceUnit, install, run_command, uninstall, unit_of
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import ROOT, enrolled
from tests.support.require import require
from tests.support.systemd import OFTEN, allowed_calls, analysed, traced_calls, watch

PROGRAM = Path(sysconfig.get_path("scripts")) / "edge-agent"


@pytest.fixture
def asked(tmp_path: Path) -> ServiceUnit:
    """Into an image."""
    (tmp_path / "image").mkdir()
    return ServiceUnit(
        program=Path("/opt/edgeloop/bin/edge-agent"), directory=Path("/var/lib/edge-agent"), root=tmp_path / "image"
    )


class Commands:
    """The commands that the system was given; `fails` is a word of the command that fails."""

    def __init__(self, fails: str = "") -> None:
        self.told: list[list[str]] = []
        self.fails = fails

    def __call__(self, words) -> None:
        self.told.append(list(words))
        if self.fails and self.fails in words:
            raise AgentError(f"{words[0]} failed")


@pytest.mark.parametrize(
    ("directory", "devices", "port"),
    [("/var/lib/edge-agent", (), None), ('/srv/100% "odd" $HOME/a b', ("/dev/apex_0", "/dev/bus/usb"), 8200)],
    ids=["usual", "odd"],
)
def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path, directory, devices, port):
    asked = ServiceUnit(program=PROGRAM, directory=Path(directory), devices=devices, port=port)
    unit = tmp_path / "edge-agent.service"
    unit.write_text(unit_of(asked))
    found = analysed("verify", unit)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    judged = analysed("security", "--offline=true", "--threshold=25", unit)  # 0 is no exposure, 100 all of it
    assert judged.returncode == 0, judged.stdout[-300:]


def test_a_command_line_comes_back_from_systemds_rules():
    asked = ServiceUnit(program=PROGRAM, directory=Path('/srv/100% "odd" $HOME/a\\b'), port=8200)
    (line,) = re.findall(r"^ExecStart=(.*)$", unit_of(asked), re.MULTILINE)
    words = [
        re.sub(r"\\(.)", r"\1", quoted or plain).replace("%%", "%").replace("$$", "$")
        for quoted, plain in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    ]
    folder = '/srv/100% "odd" $HOME/a\\b'
    assert words == [str(PROGRAM), "run", "--dir", folder, "--uds", f"{folder}/api.sock", "--port", "8200"]


def test_the_agent_and_its_self_test_need_no_call_that_the_unit_refuses(tmp_path):
    allowed = allowed_calls(unit_of(ServiceUnit(program=PROGRAM, directory=Path("/var/lib/a"))))
    release = models.release(tmp_path / "blobs", runtime="litert", data=models.litert_bytes())
    (tmp_path / "manifest.json").write_bytes(encode_manifest(release.manifest))
    assert allowed >= OFTEN
    selftest = [
        sys.executable,
        "-m",
        "edge_agent.main",
        "selftest",
        "--manifest",
        tmp_path / "manifest.json",
        "--variant",
        "litert-fp32",
        "--blobs",
        tmp_path / "blobs",
    ]
    done = subprocess.run(
        [*watch(tmp_path / "trace"), *selftest], cwd=ROOT, timeout=120, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    agent = [sys.executable, "-m", "edge_agent.main", "run", "--port", "0", "--dir", enrolled(tmp_path / "agent")]
    process = subprocess.Popen([*watch(tmp_path / "run"), *agent], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "agent" / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(int(json.loads((tmp_path / "agent" / "run.json").read_text())["pid"]), signal.SIGTERM)
    process.wait(60)
    called = traced_calls(tmp_path / "trace", tmp_path / "run")
    assert {"landlock_restrict_self", "execve"} <= called or not landlock(), "the trace is of the self-test"
    assert called <= allowed, called - allowed


def landlock() -> bool:
    """Tell whether this kernel has it."""
    return (
        "landlock" in Path("/sys/kernel/security/lsm").read_text()
        if Path("/sys/kernel/security/lsm").exists()
        else False
    )


def test_an_image_gets_the_service_and_loses_it_again(asked):
    require("systemd-sysusers", "systemd")
    left = install(asked, start=True, command=run_command)
    assert "enroll" in left[0] and left[1] == "systemctl start edge-agent"
    assert (asked.root / "etc/systemd/system/multi-user.target.wants/edge-agent.service").is_symlink()
    assert "\nedge-agent:" in "\n" + (asked.root / "etc/passwd").read_text()
    assert "\nedgeloop:" in "\n" + (asked.root / "etc/group").read_text()
    text = asked.unit.read_text()
    again = install(replace(asked, port=8201), start=True, command=run_command)
    assert again == left and asked.unit.read_text() == text.replace("api.sock", "api.sock --port 8201")
    folder = enrolled(asked.root / "var/lib/edge-agent")
    assert install(asked, start=True, command=run_command) == ["systemctl start edge-agent"]
    stays = uninstall(asked, purge=False, command=run_command)
    assert "stays" in stays[0] and (folder / "identity/device.key").exists()
    assert not list(asked.root.glob("etc/systemd/system/**/edge-agent*")) and not asked.users.exists()
    with pytest.raises(NotFoundError):
        uninstall(asked, purge=True, command=run_command)
    install(asked, start=False, command=run_command)
    assert uninstall(asked, purge=True, command=run_command) == [] and not folder.exists()


def test_the_folder_that_goes_is_the_services_own(asked):
    second = replace(asked, name="second", directory=Path("/srv/second"))
    for one in (asked, second):
        install(one, start=False, command=Commands())
        enrolled(one.root / one.directory.relative_to("/"))
    uninstall(replace(asked, name="second"), purge=True, command=Commands())  # whatever folder the caller thinks of
    assert not (asked.root / "srv/second").exists()
    assert (asked.root / "var/lib/edge-agent/identity/device.key").exists() and asked.unit.exists()
    for name in ("../../x", "a/b"):
        with pytest.raises(UsageError, match="cannot be a service's"):
            uninstall(replace(asked, name=name), purge=True, command=Commands())


@pytest.mark.parametrize("link", ["etc/systemd/system", "etc/sysusers.d", "var/lib"])
def test_a_link_in_an_image_leads_nobody_out_of_it(asked, tmp_path, link):
    outside = tmp_path / "outside"
    outside.mkdir()
    (asked.root / link).parent.mkdir(parents=True)
    (asked.root / link).symlink_to(outside)
    with pytest.raises(ConflictError, match="leads out of"):
        install(asked, start=False, command=Commands())
    assert not list(outside.iterdir())


def test_a_folder_that_is_a_link_is_refused_with_where_it_leads(asked):
    (asked.root / "disk").mkdir()
    (asked.root / "var/lib").mkdir(parents=True)
    (asked.root / "var/lib/edge-agent").symlink_to("../../disk")
    with pytest.raises(UsageError, match="is a link") as found:
        install(asked, start=False, command=Commands())
    assert found.value.hint.endswith("/disk") and not asked.unit.exists()


def test_nobody_elses_files_are_touched(asked, tmp_path):
    asked.unit.parent.mkdir(parents=True)
    asked.unit.write_text("[Unit]\nDescription=by hand\n")
    for act in (
        lambda: install(asked, start=True, command=Commands()),
        lambda: uninstall(asked, purge=False, command=Commands()),
    ):
        with pytest.raises(ConflictError, match="was not written by this command"):
            act()
    assert "by hand" in asked.unit.read_text()
    asked.unit.write_text(unit_of(asked))
    other = asked.root / "var/lib/edge-agent"
    other.mkdir(parents=True)
    (other / "thesis.txt").write_text("years of work")
    commands = Commands()
    with pytest.raises(ConflictError, match="holds no device's identity"):
        uninstall(asked, purge=True, command=commands)
    assert (other / "thesis.txt").exists() and asked.unit.exists() and commands.told == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../evil"}, "cannot be a service's"),
        ({"name": "A b"}, "--name"),
        ({"directory": Path("relative")}, "no absolute path"),
        ({"directory": Path("/var")}, "is the system's"),
        ({"directory": Path("/var/lib/a\nExecStart=x")}, "no absolute path"),
        ({"directory": Path("/home/me/a")}, "/home"),
        ({"devices": ("/etc/passwd",)}, "under /dev"),
        ({"devices": ("/dev/a\nUser=root",)}, "under /dev"),
    ],
)
def test_what_no_service_can_have_is_refused_before_anything_is_written(asked, change, words):
    commands = Commands()
    with pytest.raises(UsageError, match=re.escape(words)):
        install(replace(asked, **change), start=True, command=commands)
    assert commands.told == [] and not list(asked.root.iterdir())


def test_a_system_without_systemd_and_another_user_are_refused_with_what_to_do(asked, tmp_path, monkeypatch):
    here = replace(asked, root=Path("/"), program=Path("/opt/edgeloop/bin/edge-agent"))
    monkeypatch.setattr(service, "RUNS", tmp_path / "missing")
    for act in (
        lambda: install(here, start=True, command=Commands()),
        lambda: uninstall(here, purge=False, command=Commands()),
    ):
        with pytest.raises(AgentError, match="systemd does not run here"):
            act()
    monkeypatch.setattr(service, "RUNS", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(DeniedError):
        install(here, start=True, command=Commands())
    with pytest.raises(UsageError, match="where the service cannot see it"):
        install(replace(here, program=Path("/root/venv/bin/edge-agent")), start=True, command=Commands())


def test_a_command_that_fails_says_what_it_said(asked):
    with pytest.raises(AgentError, match="systemctl failed"):
        install(asked, start=True, command=Commands(fails="enable"))
    with pytest.raises(AgentError, match="no-such-program is not there"):
        run_command(["no-such-program"])
    with pytest.raises(AgentError, match="said this"):
        run_command(["sh", "-c", "echo said this >&2; exit 3"])


def test_a_link_in_the_folder_leads_nobody_out_of_it(asked, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").write_text("x")
    folder = tmp_path / "agent"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "one").write_text("x")
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "shadow")
    given: list[tuple[int, int]] = []

    def chown(path, uid, gid, *, dir_fd=None, follow_symlinks=True):
        assert not follow_symlinks and dir_fd is not None
        found = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        given.append((found.st_dev, found.st_ino))

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(
        os, "fchown", lambda place, uid, gid: given.append((os.fstat(place).st_dev, os.fstat(place).st_ino))
    )
    service._give(folder, replace(asked, user="root"))
    for path in (outside, outside / "shadow"):
        assert (path.stat().st_dev, path.stat().st_ino) not in given
    assert ((folder / "blobs/one").stat().st_dev, (folder / "blobs/one").stat().st_ino) in given
    assert folder.stat().st_mode & 0o7777 == 0o2750


def test_the_command_shows_the_unit_and_writes_nothing(tmp_path):
    done = subprocess.run([PROGRAM, "service", "show", "--port", "8200"], capture_output=True, text=True, check=False)
    assert done.returncode == 2  # show takes no port
    done = subprocess.run([PROGRAM, "service", "show"], capture_output=True, text=True, check=True)
    assert done.stdout == unit_of(ServiceUnit(program=PROGRAM, directory=Path("/var/lib/edge-agent")))
