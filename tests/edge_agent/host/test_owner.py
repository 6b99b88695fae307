"""The users who may write in an agent's directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.errors import UsageError
from edge_agent.host import owner
from edge_agent.host.owner import check_owner
from edge_agent.main import main
from tests.support.agent_process import enrolled

ME = os.geteuid()


def test_the_agents_user_may_and_nobody_else(tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "agent")
    check_owner(directory, "run", ME)
    check_owner(tmp_path / "none", "run", ME + 1)  # what is missing is said by others
    with pytest.raises(UsageError, match=f"belongs to {owner.user(ME)}, not to 54321") as caught:
        check_owner(directory, "run", 54321)
    assert caught.value.hint == f"sudo -u {owner.user(ME)} edge-agent run … --dir {directory}"


@pytest.mark.skipif(ME != 0, reason="only root gives files to others")
def test_root_is_refused_before_it_writes_anything(tmp_path: Path, capsys) -> None:
    directory = enrolled(tmp_path / "agent")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 54321, 54321)
    before = sorted(directory.rglob("*"))
    for command in (["install", str(tmp_path)], ["run", "--port", "0"]):
        assert main([*command, "--dir", str(directory)]) == 2
        assert "try: sudo -u '#54321' edge-agent" in capsys.readouterr().err
    assert sorted(directory.rglob("*")) == before


@pytest.mark.skipif(ME != 0, reason="only root gives files to others")
def test_what_root_left_is_named_with_what_mends_it(tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "agent")
    (directory / "state.json").write_text("{}")
    for path in (directory, directory / "identity"):
        os.chown(path, 54321, -1)
    check_owner(directory, "run", 0)  # an agent that always ran as root goes on
    with pytest.raises(UsageError, match=r"state.json belongs to root, not to 54321") as caught:
        check_owner(directory, "run", 54321)
    assert caught.value.hint == f"sudo chown -R 54321 {directory}"


@pytest.mark.skipif(ME != 0, reason="only root gives files to others")
def test_a_volume_that_belongs_to_another_one_is_no_matter(tmp_path: Path) -> None:
    directory = enrolled(tmp_path / "agent")
    os.chown(directory, 54321, -1)
    check_owner(directory, "run", 0)
