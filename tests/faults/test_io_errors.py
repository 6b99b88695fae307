"""EIO once, and ENOSPC from then on, at each fsync and rename of an update, and either once at each write.

The life with the error must go on serving what it served and say what failed, the next one must get where it
should, and a file whose fsync failed must never get its final name.
"""

from __future__ import annotations

import itertools

import pytest

from tests.support.faults import results
from tests.support.faults.points import Point, census, sample
from tests.support.faults.strikes import strike

pytestmark = pytest.mark.fault

CALLS = ("write", "writev", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2")
UPDATES = ("install", "swap", "halt", "rollback", "rotation") if results.FULL else ("install", "swap")
CASES = 400 if results.FULL else 60
SEED = 4


def test_an_io_error_costs_one_update_and_nothing_else(bench, static, world, strace):
    scenarios = world("small").scenarios
    struck: list[tuple[str, Point, str]] = []
    for update in UPDATES:
        with bench.worker() as (run, folder):
            points = census(run, folder, scenarios[update], static.url)
        where = [(update, p) for p in points if p.on_disk and p.call in CALLS]
        every = [(*one, error) for one, error in itertools.product(where, ("error=EIO", "error=ENOSPC"))]
        struck += sample(every, CASES // len(UPDATES), SEED)
    verdicts = bench.map(
        lambda run, folder, item: strike(run, folder, scenarios[item[0]], static.url, item[1], item[2]), struck
    )
    found = []
    for error in ("EIO", "ENOSPC"):
        mine = [v for v in verdicts if error in v.name]
        found += results.keep(error, ", ".join(UPDATES), mine, seed=SEED)
    assert not found, "\n".join(found)
    assert sum(v.struck for v in verdicts) >= 0.95 * len(verdicts)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ('fsync(3</d/a.part>) = -1 EIO (Input/output error) (INJECTED)\nrename("/d/a.part", "/d/a") = 0', ["/d/a"]),
        ('fsync(3</d/a.part>) = 0\nrename("/d/a.part", "/d/a") = 0', []),
        (
            "fdatasync(3</d/a>) = -1 EIO (Input/output error) (INJECTED)\n"
            'openat(AT_FDCWD</>, "/d/a", O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC, 0666) = 3</d/a>\n'
            'fsync(3</d/a>) = 0\nrename("/d/a", "/d/b") = 0',
            [],
        ),
    ],
)
def test_the_rule_about_fsync_sees_a_file_that_is_used_after_its_fsync_failed(log, expected):
    from tests.support.faults.strikes import unsynced

    assert unsynced(log) == expected
