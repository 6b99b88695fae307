"""When the hub heard its devices."""

from __future__ import annotations

from cloud_hub.store.hearing import Hearing, after, known, note
from tests.support.hub import HubFixture

HEARD = Hearing(noted_at=1000.0)


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
        assert known(session, now).deaf_until == 0.0, "nothing was noted yet"
        note(session, now)
    with hub.hub.session() as session:
        assert known(session, now + 30.0).deaf_until == 0.0
        assert known(session, now + 700.0).deaf_until == now + 700.0
        note(session, now + 800.0)
        note(session, now + 805.0)
        assert known(session, now + 810.0) == Hearing(noted_at=now + 810.0, deaf_from=now, deaf_until=now + 800.0)
