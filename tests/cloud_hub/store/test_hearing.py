"""The times at which the hub heard its devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cloud_hub.store.hearing import KEY, Hearing, after, deaf_until, known, note
from cloud_hub.store.tables import Setting
from tests.support.hub import HubFixture, make_hub

HEARD = Hearing(noted_at=1000.0)


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


def test_a_gap_between_two_notes_is_an_outage_and_a_short_one_is_not() -> None:
    assert after(HEARD, 1060.0) == Hearing(noted_at=1060.0)
    assert after(HEARD, 1700.0) == Hearing(noted_at=1700.0, deaf_from=1000.0, deaf_until=1700.0)


def test_of_an_outage_what_lies_between_two_moments_counts() -> None:
    outage = after(HEARD, 1700.0)
    spans = ((0.0, 900.0), (900.0, 1100.0), (900.0, 1800.0), (1700.0, 1800.0))
    assert [outage.deaf_s(*span) for span in spans] == [0.0, 100.0, 700.0, 0.0]


def test_a_clock_that_was_set_back_makes_no_outage() -> None:
    back = after(after(HEARD, 1700.0), 1200.0)
    assert back == Hearing(noted_at=1200.0, deaf_from=1000.0, deaf_until=1200.0)
    assert after(back, 1205.0) == Hearing(noted_at=1205.0, deaf_from=1000.0, deaf_until=1200.0)


def test_an_outage_is_known_while_it_lasts_and_until_the_next(hub: HubFixture) -> None:
    now = hub.clock()
    with hub.hub.session() as session:
        assert deaf_until(session, now) == 0.0, "nothing was noted yet"
        note(session, now)
    with hub.hub.session() as session:
        assert deaf_until(session, now + 30.0) == 0.0
        assert deaf_until(session, now + 700.0) == now + 700.0
        note(session, now + 800.0)
        note(session, now + 805.0)
        last = Hearing(noted_at=now + 810.0, deaf_from=now, deaf_until=now + 800.0)
        assert known(session, now + 810.0) == dict.fromkeys("0123456789abcdef", last)


def test_a_hub_that_hears_hides_nothing_of_one_that_does_not(both: HubFixture) -> None:
    now = both.clock()
    with both.hub.session() as session:
        note(session, now)
        for later in (50.0, 100.0, 150.0):
            note(session, now + later, "01234567")
        heard = known(session, now + 160.0)
        assert {digit: found.deaf_s(now, now + 160.0) for digit, found in heard.items()} == {
            **dict.fromkeys("01234567", 0.0),
            **dict.fromkeys("89abcdef", 160.0),
        }
        assert deaf_until(session, now + 160.0) == now + 160.0, "the silence of nobody counts meanwhile"


def test_what_a_hub_of_an_earlier_release_noted_holds_for_shards_without_a_note(both: HubFixture) -> None:
    now = both.clock()
    with both.hub.session() as session:
        session.add(Setting(key=KEY, value=msgspec.json.encode(Hearing(noted_at=now - 500.0)).decode()))
        session.flush()
        assert deaf_until(session, now) == now
        note(session, now)
        assert known(session, now)["f"] == Hearing(noted_at=now, deaf_from=now - 500.0, deaf_until=now)
