from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from fleet.cli.main import run
from fleet.cli.session import Session
from tests.support.fake_hub import ScriptedHub


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def hub() -> ScriptedHub:
    return ScriptedHub()


@pytest.fixture
def fleet(hub: ScriptedHub, tmp_path, capsys) -> Callable[..., Outcome]:
    """Run the command against the scripted hub; time passes only in `sleep`."""

    def call(*arguments: str, environment: dict[str, str] | None = None) -> Outcome:
        now = [0.0]
        logged_in = {"EDGELOOP_HUB": "http://hub", "EDGELOOP_TOKEN": "el1.a.b"}
        session = Session(
            {"EDGELOOP_CONFIG": str(tmp_path / "config.toml"), **(logged_in if environment is None else environment)},
            connect=lambda login: hub,
            sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
            monotonic=lambda: now[0],
        )
        code = run(arguments, session)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
