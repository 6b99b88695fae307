"""The processor's share holds for any work at any moments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.shadow.pace import CoreShare

WORK = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 100)), min_size=1, max_size=12)


@given(WORK, st.floats(0.01, 1.0))
def test_what_is_spent_until_a_piece_begins_is_at_most_the_share_of_the_time(work, share: float) -> None:
    pace, now, spent, first = CoreShare(), 0.0, 0.0, 0.0
    for cpu_s, idle_s in work:
        now += idle_s  # no copy came for a while
        now += pace.wait_s(now)
        assert spent <= share * (now - first) + 1e-6
        pace.spent(cpu_s, share, now)
        spent += cpu_s
        now += cpu_s


def test_an_idle_hour_buys_no_burst() -> None:
    pace = CoreShare()
    pace.spent(0.05, 0.05, 3600.0)
    assert pace.wait_s(3600.05) > 0.9
    assert pace.wait_s(3601.0) < 1e-6
