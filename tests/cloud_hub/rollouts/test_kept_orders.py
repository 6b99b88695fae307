"""An order that could not be published is kept, reported, and published later: once, and by itself."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub.errors import KeptError, UnreachableError
from cloud_hub.rollouts import orders
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.trust.refresher import CatchUp
from cloud_hub.trust.repository import version_of
from cloud_hub.trust.unshown import AGAIN
from tests.support.hub import HubFixture
from tests.support.rollouts import entry, history, make_fleet, row_of, start


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    return make_fleet(hub)


def refuse(fleet: HubFixture, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The object store does not answer one kind of call."""

    def fail(key: str, *_: Any) -> None:
        raise UnreachableError(f"object store: Timeout at {key}", subject=key)

    monkeypatch.setattr(fleet.hub.objects, name, fail)


def shown(fleet: HubFixture) -> int:
    """The version of the timestamp that devices see."""
    return version_of(fleet.hub.objects.get("tuf/metadata/timestamp.json").data)


def looked_twice(fleet: HubFixture) -> None:
    """Look as another hub's service does."""
    service = CatchUp(fleet.hub)
    service.look()
    service.look()


def test_an_order_that_could_not_be_published_is_said_to_be_kept(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = start(fleet)
    with monkeypatch.context() as patch:
        refuse(fleet, patch, "put_new")
        url = f"/api/v1/rollouts/{rollout}/abort"
        answer = fleet.client.post(url, json={"reason": "it smells"}, headers=fleet.auth())
        assert answer.status_code == 503 and "the order to abort is kept" in answer.json()["error"]
        assert "do not order it again" in answer.json()["hint"]
        assert row_of(fleet, rollout).state == "aborted" and entry(fleet).rollout is not None
    RolloutEngine(fleet.hub).look()
    assert entry(fleet).rollout is None and history(fleet, rollout).count("aborted") == 1


def test_what_is_committed_and_not_shown_is_shown_without_another_publication(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, before, service = start(fleet), shown(fleet), CatchUp(fleet.hub)
    with monkeypatch.context() as patch:
        refuse(fleet, patch, "put_if_match")
        with pytest.raises(KeptError, match="it is kept, and no device sees it yet"):
            orders.apply_order(fleet.hub, rollout, "abort", "", "test")
        service.look()
        service.look()  # the store is still away
        assert shown(fleet) == before and entry(fleet).rollout is None
    service.look()
    assert shown(fleet) == before + 1
    service.look()
    assert shown(fleet) == before + 1


def test_an_older_version_that_is_shown_late_does_not_hide_that_a_later_one_is_not(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, before, put = start(fleet), shown(fleet), fleet.hub.objects.put_if_match

    def slow(*one: Any) -> None:
        """While the first one is on its way an abort is published, which the store does not take."""
        with monkeypatch.context() as patch:
            refuse(fleet, patch, "put_if_match")
            with pytest.raises(KeptError):
                orders.apply_order(fleet.hub, rollout, "abort", "", "test")
        monkeypatch.setattr(fleet.hub.objects, "put_if_match", put)
        put(*one)

    monkeypatch.setattr(fleet.hub.objects, "put_if_match", slow)
    fleet.hub.publisher.refresh(force=True)
    assert shown(fleet) == before + 1 and entry(fleet).rollout is None
    looked_twice(fleet)
    assert shown(fleet) == before + 2


def test_another_hub_shows_what_one_left_behind_that_ended_between_commit_and_store(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, before = start(fleet), shown(fleet)

    class PowerLoss(BaseException):
        """An end that no code catches."""

    def end(*_: Any) -> None:
        raise PowerLoss

    with monkeypatch.context() as patch:
        patch.setattr(fleet.hub.objects, "put_if_match", end)
        with pytest.raises(PowerLoss):
            orders.apply_order(fleet.hub, rollout, "abort", "", "test")
    assert shown(fleet) == before
    looked_twice(fleet)
    assert shown(fleet) == before + 1 and entry(fleet).rollout is None


def test_what_is_on_its_way_is_not_made_up_for_and_what_is_shown_is_read_once(
    fleet: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(fleet)
    service, read, gets = CatchUp(fleet.hub), fleet.hub.objects.get, list[str]()

    def counted(key: str) -> Any:
        gets.append(key)
        return read(key)

    monkeypatch.setattr(fleet.hub.objects, "get", counted)
    monkeypatch.setattr(fleet.hub.publisher, "recover", lambda: pytest.fail("there is nothing to make up for"))
    service.look()
    assert gets == []
    for _ in range(AGAIN):
        service.look()
    assert gets == ["tuf/metadata/timestamp.json"]


def test_a_store_that_is_made_again_from_an_older_copy_is_brought_up_to_date(fleet: HubFixture) -> None:
    path = "tuf/metadata/timestamp.json"
    older, rollout = fleet.hub.objects.get(path).data, start(fleet)
    orders.apply_order(fleet.hub, rollout, "abort", "", "test")
    service, newest = CatchUp(fleet.hub), shown(fleet)
    service.look()
    service.look()
    fleet.hub.objects.put(path, older)
    assert shown(fleet) < newest
    for _ in range(AGAIN):
        service.look()
    assert shown(fleet) == newest
