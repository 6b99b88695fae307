"""The hub's unit: what systemd's own tools say of it, and that hub, broker and worker live within it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sysconfig
from pathlib import Path

from tests.support.commands import call
from tests.support.hub_process import HubProcess
from tests.support.require import require
from tests.support.systemd import OFTEN, allowed_calls, analysed, traced_calls, watch

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = (SYSTEMD / "cloud-hub.service").read_text()
USERS = SYSTEMD / "cloud-hub.sysusers.conf"


def setting(name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)
    return found


def test_systemd_takes_the_unit_and_finds_it_hardened(tmp_path):
    unit = tmp_path / "cloud-hub.service"
    unit.write_text(UNIT.replace("/opt/edgeloop/bin", sysconfig.get_path("scripts")))
    found = analysed("verify", unit)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    judged = analysed("security", "--offline=true", "--threshold=25", unit)  # 0 is no exposure, 100 all of it
    assert judged.returncode == 0, judged.stdout[-300:]


def test_the_unit_starts_a_command_that_exists_in_the_folder_that_it_may_write():
    program, *words = shlex.split(setting("ExecStart"))
    assert Path(program).name == "cloud-hub" and call("cloud-hub", *words, "--help").returncode == 0
    folder = Path("/var/lib") / setting("StateDirectory")
    assert words[-1] == str(folder) and setting("ConditionPathExists") == str(folder / "hub.toml")


def test_the_users_file_makes_the_units_user(tmp_path):
    tool = require("systemd-sysusers", "systemd")
    (tmp_path / "etc").mkdir()
    subprocess.run([tool, f"--root={tmp_path}", USERS], check=True, capture_output=True, timeout=60)
    (line,) = [line for line in (tmp_path / "etc/passwd").read_text().splitlines() if line.startswith("cloud-hub:")]
    home, shell = line.split(":")[5:]
    assert setting("User") == setting("Group") == "cloud-hub"
    assert home == "/var/lib/cloud-hub" and shell.endswith("nologin")


def test_hub_broker_and_worker_need_no_call_that_the_unit_refuses(tmp_path):
    made = call("cloud-hub", "init", tmp_path / "hub", "--offline-keys", tmp_path / "off", EDGELOOP_PASSPHRASE="x")
    assert made.returncode == 0, made.stderr
    hub = HubProcess(tmp_path / "hub", under=watch(tmp_path / "trace"))
    try:
        hub.until("/readyz", 200)
        (pid,) = Path(f"/proc/{hub.process.pid}/task/{hub.process.pid}/children").read_text().split()
        os.kill(int(pid), signal.SIGTERM)
        assert hub.process.wait(60) == 0, hub.log()
    finally:
        hub.stop(signal.SIGKILL)
    allowed, called = allowed_calls(UNIT), traced_calls(tmp_path / "trace")
    assert allowed >= OFTEN and {"execve", "listen", "fdatasync", "accept4"} <= called
    assert called <= allowed, called - allowed
