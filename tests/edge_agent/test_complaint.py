"""The command's words when a file or folder refuses it: a line, a hint, an exit code, and no trace."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest

from edge_agent.complaint import complaint
from edge_agent.errors import NotFoundError
from edge_agent.main import main
from tests.support.agent_process import enrolled

ME = os.geteuid()


@contextlib.contextmanager
def locked_out(directory: Path):
    """This process may not enter the folder: as root by being nobody."""
    directory.chmod(0o700 if ME == 0 else 0)
    if ME == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(ME)
        directory.chmod(0o750)


@pytest.mark.parametrize("command", [["status"], ["install", "."], ["run", "--port", "0"], ["bench"]])
def test_a_folder_of_somebody_elses_is_not_allowed(tmp_path: Path, command, capsys) -> None:
    directory = enrolled(tmp_path / "agent")
    with locked_out(directory):
        assert main([*command, "--dir", str(directory)]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"error: {directory}") and "Permission denied" in said and "try: " in said


@pytest.mark.skipif(ME != 0, reason="only root gives files to others")
def test_the_hint_is_the_command_of_the_agents_own_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, -1)
    said = complaint(PermissionError(errno.EACCES, "Permission denied", "x"), "status", tmp_path)
    assert (said.exit_code, said.hint) == (4, f"sudo -u '#54321' edge-agent status … --dir {tmp_path}")


def test_other_refusals_of_the_system_name_the_file_and_what_helps(tmp_path: Path) -> None:
    said = complaint(OSError(errno.ENOSPC, "No space left on device", "/a/b"), "install", tmp_path)
    assert (said.text, said.exit_code) == ("/a/b: No space left on device", 1) and "free space" in said.hint
    assert complaint(OSError("odd"), "run", None).text == "odd"
    assert complaint(NotFoundError("none", hint="look"), "run", None).exit_code == 3


@pytest.mark.parametrize("data", [b"\0" * 100, b"{", b"[]"])
def test_a_damaged_state_has_a_status(tmp_path: Path, data, capsys) -> None:
    directory = enrolled(tmp_path / "agent")
    (directory / "state.json").write_bytes(data)
    assert main(["status", "--dir", str(directory), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["problem"] == "state-damaged" and "state.json" in document["hint"]
    assert document["disk"]["free_bytes"] > 0 and document["certificate_expires"] > 0
    assert (document["device"], document["channel"], document["models"]) == ("cam-1", "stable", {})
    assert (directory / "state.json").read_bytes() == data  # to look changes nothing


def test_the_help_names_the_exit_codes_and_an_unknown_setting_the_known_ones(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Exit codes: 0 done, 1 failed, 2 usage" in " ".join(capsys.readouterr().out.split())
    (enrolled(tmp_path / "agent") / "agent.toml").write_text("nonsense = 1\n")
    assert main(["status", "--dir", str(tmp_path / "agent")]) == 2
    assert "try: one of clock_slack_s, connect_timeout_s, " in capsys.readouterr().err
