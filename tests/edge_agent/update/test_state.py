"""state.json: what a restart finds, also when the disk has changed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import AgentError
from edge_agent.update.disk.state import StateFile, read_state
from edge_agent.update.rules.model_state import HeldRelease, ModelState

HELD = HeldRelease(release=1, variant="v", manifest="a" * 64)


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    StateFile(tmp_path).put_model("tiny", ModelState(state="committed", active=HELD))
    assert StateFile(tmp_path).model("tiny").active == HELD


@pytest.mark.parametrize("damage", [b"", b"\0" * 400, b'{"models": {"tiny"'])
def test_a_damaged_state_is_set_aside_and_said(tmp_path: Path, damage: bytes) -> None:
    StateFile(tmp_path).put_model("tiny", ModelState(state="committed", active=HELD))
    (tmp_path / "state.json").write_bytes(damage)
    with pytest.raises(AgentError, match=r"state\.json"):
        read_state(tmp_path)
    fresh = StateFile(tmp_path)
    assert fresh.state.models == {} and fresh.state.looked.problem == "state-damaged"
    assert (tmp_path / "state.json.damaged").read_bytes() == damage
    fresh.put_model("tiny", ModelState())
    assert read_state(tmp_path).models == {"tiny": ModelState()}
