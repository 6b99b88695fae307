"""A name that does not exist is refused before anything permanent is made of it, and the refusal says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import Session, func, select

from cloud_hub.identity.groups import group_id
from cloud_hub.store.tables import Job, Model, RolloutRow, Snapshot, Token
from cloud_hub.trust.channels import show_channel
from fleet.protocol.channel import Channel
from tests.cloud_hub.api.test_operator_api import add_device
from tests.support.hub import HubFixture
from tests.support.rollouts import make_fleet

TABLES = (Job, Model, RolloutRow, Token)
DIGITS = "examples.digits.recipe"


def counts(session: Session) -> list[int]:
    return [session.exec(select(func.count()).select_from(table)).one() for table in TABLES]


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    """Three devices on `stable`, which holds `digits`, a model with a recipe; and a channel `empty`."""
    make_fleet(hub, releases=2)
    hub.channel("empty")
    assert hub.client.patch("/api/v1/models/digits", json={"recipe": DIGITS}, headers=hub.auth()).status_code == 200
    return hub


RETRAIN = "/models/digits/retrain"
ROLLOUT = {"model": "digits", "release": 2, "channel": "stable"}
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("/tokens", {"kind": "claim", "channel": "stabel"}, "no channel 'stabel'", "fleet channel create stabel"),
    ("/tokens", {"kind": "application", "scope": "infer:digit"}, "no model 'digit'", "fleet model create digit"),
    ("/models", {"name": "a", "recipe": "examples.digit.recipe"}, "no recipe examples.digit.recipe", "install it"),
    ("/models", {"name": "a", "recipe": "digits.py"}, "no recipe digits.py", "put its file there"),
    ("/models", {"name": "a", "recipe": "../quick.py"}, "no recipe ../quick.py", "put its file there"),
    (RETRAIN, {"channel": "stabel"}, "no channel 'stabel'", "fleet channel list"),
    (RETRAIN, {"channel": "empty", "rollout": {}}, "does not hold model 'digits'", "fleet channel set empty"),
    (RETRAIN, {"snapshot": "s9"}, "no snapshot s9", ""),
    (RETRAIN, {"channel": "stable", "rollout": {"groups": ["site=bonn"]}}, "group 'site=bonn'", "fleet device label"),
    ("/models/digit/retrain", {}, "no model 'digit'", "fleet model create"),
    ("/models/digit/tune", {"space": {"batch": [8]}}, "no model 'digit'", "fleet model create"),
    ("/models/digits/tune", {"space": {"batch": [8]}, "snapshot": "s9"}, "no snapshot s9", ""),
    ("/models/digits/tune", {"space": {"batch": [8]}, "retrain": {"channel": "stabel"}}, "no channel", "channel list"),
    ("/rollouts", {**ROLLOUT, "channel": "stabel"}, "channel 'stabel' does not hold", "fleet channel set stabel"),
    ("/rollouts", {**ROLLOUT, "model": "digit"}, "no model 'digit'", "fleet model create"),
    ("/rollouts", {**ROLLOUT, "release": 9}, "no release 9", "fleet release list"),
    ("/rollouts", {**ROLLOUT, "groups": ["site=bonn"]}, "is in group 'site=bonn'", "fleet device label"),
    ("/rollouts", {**ROLLOUT, "groups": ["g-1"]}, "is in group 'g-1'", "fleet device label"),
]


def test_it_is_refused_and_nothing_is_made(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session:
        before = counts(session)
    for path, body, said, hint in CASES:
        answer = fleet.client.post(f"/api/v1{path}", json=body, headers=fleet.auth())
        assert answer.status_code == 404, (path, body, answer.text)
        assert said in answer.json()["error"] and hint in answer.json().get("hint", ""), (path, body, answer.text)
    with fleet.hub.reading() as session:
        assert counts(session) == before


def test_what_is_there_is_taken(fleet: HubFixture) -> None:
    (fleet.hub.config.directory / "recipes").mkdir(exist_ok=True)
    (fleet.hub.config.directory / "recipes" / "quick.py").write_text("raise SystemExit('the hub never runs it')")
    with fleet.hub.session() as session:
        session.add(Snapshot(id="s1", model="digits", path="p", samples=1, labelled=1, size_bytes=1, created_at=0.0))
    for path, body in [
        ("/tokens", {"kind": "claim", "channel": "empty"}),
        ("/tokens", {"kind": "application", "scope": "infer:digits"}),
        ("/tokens", {"kind": "application", "scope": "infer:*"}),
        ("/models", {"name": "a", "recipe": "quick.py"}),
        ("/models", {"name": "b", "recipe": DIGITS}),
        (RETRAIN, {"snapshot": "s1", "channel": "stable", "rollout": {}}),
    ]:
        answer = fleet.client.post(f"/api/v1{path}", json=body, headers=fleet.auth())
        assert answer.status_code == 201, (path, body, answer.text)


@pytest.mark.parametrize("recipe", ["examples", "examples.digits.recipe.more", "a b", "..", "", ".py"])
def test_a_recipe_is_a_module_or_a_file(fleet: HubFixture, recipe: str) -> None:
    answer = fleet.client.patch("/api/v1/models/digits", json={"recipe": recipe}, headers=fleet.auth())
    taken = recipe in ("examples", "")  # a package that can be imported; and no recipe any more
    assert answer.status_code == (200 if taken else 404), answer.text


def test_a_recipe_that_is_gone_ends_no_training(fleet: HubFixture) -> None:
    with fleet.hub.session() as session:
        row = session.get(Model, "digits")
        assert row is not None
        row.recipe = "gone.py"
        session.add(row)
    answer = fleet.client.post(f"/api/v1{RETRAIN}", json={}, headers=fleet.auth())
    assert answer.status_code == 404 and "no recipe gone.py" in answer.json()["error"]


def test_a_group_is_named_by_a_label_that_devices_have(fleet: HubFixture) -> None:
    add_device(fleet, "k", site="berlin")
    wanted = {**ROLLOUT, "stages": [100], "groups": ["site=berlin"]}
    made = fleet.client.post("/api/v1/rollouts", json=wanted, headers=fleet.auth())
    assert made.status_code == 201, made.text
    opaque = group_id(fleet.hub.device_tokens.group_secret, "site", "berlin")
    assert made.json()["plan"]["groups"] == [opaque]


def test_a_channel_change_names_only_what_is_there(fleet: HubFixture) -> None:
    url = "/api/v1/channels/stable/models/digit"
    answer = fleet.client.put(url, json={"release": 1}, headers=fleet.auth())
    assert answer.status_code == 400 and "release 1 of 'digit'" in answer.json()["error"]
    document: Channel = show_channel(fleet.hub, "stable").document
    assert list(document.models) == ["digits"]
