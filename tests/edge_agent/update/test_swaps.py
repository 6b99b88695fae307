"""A real agent process is updated while it answers, and again and again: the small size of `benchmarks/swaps.py`."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.support import swaps


@pytest.mark.alone
def test_no_request_fails_and_none_waits_long_through_five_swaps(tmp_path: Path) -> None:
    with swaps.agent(tmp_path, poll_s=2.0) as fleet:
        rows = swaps.stream_through(fleet, 5, tmp_path / "rows.json", rate=200, rest_s=1.0)
    assert [row for row in rows if not row.ok] == []
    found = swaps.ratios(rows)
    assert len(found) == 5
    # Twice is the aim, over fifty swaps on a quiet machine; a few swaps beside other tests say less.
    assert median(found) <= 4


def test_memory_does_not_grow_over_twenty_updates_and_cryptography_stays_outside(tmp_path: Path) -> None:
    with swaps.agent(tmp_path, poll_s=0.2) as fleet:
        memory = swaps.memory_over(fleet, 20)
        maps = fleet.maps()
    settled = memory[5:]
    assert swaps.slope(settled) * len(settled) < 0.005 * settled[0]
    assert "/msgspec/" in maps and "/cryptography/" not in maps
