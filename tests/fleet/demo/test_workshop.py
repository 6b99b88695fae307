from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fleet.cli.config import HubLogin, config_path, load_login, save_login
from fleet.demo.processes import DemoError, Process, options, run_to_end, wait_for
from fleet.demo.workshop import MARK, Workshop, clean, command_line


def test_a_second_demo_starts_clean_and_ends_what_the_first_left_running(tmp_path: Path) -> None:
    directory = tmp_path / ".demo"
    clean(directory)
    (directory / "logs").mkdir()
    code = "import sys, time; time.sleep(60)"
    ours = subprocess.Popen([sys.executable, "-c", code, str(directory)])
    other = subprocess.Popen([sys.executable, "-c", code, "elsewhere"])
    try:
        # a process closes what it inherited, which `Popen` waits for, a moment before its words can be read
        wait_for("its words", lambda: str(directory) in command_line(ours.pid), timeout_s=60, every_s=0.01)
        (directory / "pids.json").write_text(json.dumps([ours.pid, other.pid, 2**22 + 1]))
        clean(directory)
        assert ours.wait(60) == -9
        assert other.poll() is None, "a process that is not of this demo is left alone"
        assert [path.name for path in directory.iterdir()] == [MARK]
    finally:
        for child in (ours, other):
            child.kill()
            child.wait()


def test_a_directory_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "logs").mkdir()
    with pytest.raises(DemoError, match="not a demo's directory"):
        Workshop(tmp_path, 0, Console(quiet=True))
    assert (tmp_path / "thesis.txt").exists()


def test_a_process_that_dies_is_noticed_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = Process("agent", [sys.executable, "-c", "raise SystemExit('no model')"], log=tmp_path / "log", env={})
    process.start()
    with pytest.raises(DemoError, match=r"agent ended with exit code 1:\s+no model"):
        wait_for("the end", lambda: process.check(), timeout_s=20, every_s=0.01)


def test_a_process_whose_directory_another_demo_has_emptied_says_so(tmp_path: Path) -> None:
    process = Process("agent", [sys.executable, "-c", "raise SystemExit(1)"], log=tmp_path / "log", env={})
    process.start()
    wait_for("the end", lambda: _ended(process), timeout_s=10)
    (tmp_path / "log").unlink()
    with pytest.raises(DemoError, match="another demo"):
        process.check()


def _ended(process: Process) -> bool:
    try:
        process.check()
    except DemoError:
        return True
    return False


def test_a_command_with_another_exit_code_fails_with_its_words(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(7)"]
    assert run_to_end(words, log=tmp_path / "log", timeout_s=20, env={}, expect=7) == ""
    with pytest.raises(DemoError, match=r"(?s)exit code 7, expected 0.*why"):
        run_to_end(words, log=tmp_path / "log", timeout_s=20, env={})


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(DemoError, match="in vain for: a miracle"):
        wait_for("a miracle", lambda: False, timeout_s=0.01, every_s=0.001)


def test_the_workshop_has_a_port_for_everyone_and_one_thread_each(tmp_path: Path) -> None:
    shop = Workshop(tmp_path / ".demo", 3, Console(quiet=True))
    everyone = [shop.hub_port, shop.broker_port, *shop.agent_ports.values()]
    assert len(set(everyone)) == 5
    assert shop.env["OMP_NUM_THREADS"] == "1"
    assert shop.env["EDGELOOP_CONFIG"].startswith(str(tmp_path)), "the user's own login stays what it was"


def test_a_demo_asks_no_hub_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EDGELOOP_HUB outranks a login: what a demo does would be done to the hub that its user works with."""
    theirs = {"HUB": "https://production", "TOKEN": "el1.a.b", "CA": "/ca", "HUB_DATABASE": "postgresql://production"}
    for name, value in theirs.items():
        monkeypatch.setenv(f"EDGELOOP_{name}", value)
    shop = Workshop(tmp_path / ".demo", 3, Console(quiet=True))
    save_login(config_path(shop.env), HubLogin(url=shop.url, token="el1.c.d"))
    assert load_login(shop.env) == HubLogin(url=shop.url, token="el1.c.d")
    assert not [name for name in theirs if f"EDGELOOP_{name}" in shop.env] and "PATH" in shop.env


def test_options_are_written_as_commands_take_them() -> None:
    assert options(audit_share=0.5, probation="10s") == ("--audit-share", 0.5, "--probation", "10s")
