"""With whose identity a process of simulated devices looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import DeniedError, UnreachableError
from fleet.simulator import view

DEVICES = [Path(f"sim-{number}") for number in range(view.IDENTITIES + 2)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Devices that the hub refuses; a look answers with whose identity and whose folder it was made."""
    refused: list[Path] = []

    def fetch(directory: Path, identity: Path, *_: Any) -> Any:
        if identity in refused:
            raise DeniedError("the hub refuses this device")
        return directory, identity

    monkeypatch.setattr(view, "HubHttp", lambda directory: directory)
    monkeypatch.setattr(view, "fetch", fetch)
    return refused


def test_a_device_that_is_refused_is_no_matter_of_the_others(hub: list[Path]) -> None:
    looker = view.Looker(DEVICES, "stable", frozenset())
    assert looker.look(None) == (DEVICES[0], DEVICES[0])
    hub += DEVICES[:3]
    assert looker.look(None) == (DEVICES[0], DEVICES[3]), "the metadata stay where they are"


def test_a_look_tries_a_few_and_the_next_one_goes_on_there(hub: list[Path]) -> None:
    looker = view.Looker(DEVICES, "stable", frozenset())
    hub += DEVICES[:-1]
    with pytest.raises(DeniedError):
        looker.look(None)
    assert looker.look(None) == (DEVICES[0], DEVICES[-1])
    hub += DEVICES[-1:]
    with pytest.raises(DeniedError):
        looker.look(None)
    alone = view.Looker(DEVICES[:1], "stable", frozenset())
    with pytest.raises(DeniedError):
        alone.look(None)


def test_a_hub_that_is_away_is_asked_by_the_same_device_again(hub: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def away(directory: Path, identity: Path, *_: Any) -> Any:
        asked.append(identity)
        raise UnreachableError("the hub does not answer")

    monkeypatch.setattr(view, "fetch", away)
    looker = view.Looker(DEVICES, "stable", frozenset())
    for _ in range(2):
        with pytest.raises(UnreachableError):
            looker.look(None)
    assert asked == [DEVICES[0]] * 2
