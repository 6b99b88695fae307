from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import SpoolError
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.database import Database, set_fact
from edge_agent.telemetry.spool import Spool
from tests.support.size import examples

ROOT = Path(__file__).resolve().parents[3]

WRITER = """
import sys
from pathlib import Path
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.database import Database
spool = Spool(Database(Path(sys.argv[1])))
while True:
    print(spool.append("window", b"x" * 200, 0.0), flush=True)
"""


def open_spool(path: Path, **more) -> Spool:
    return Spool(Database(path / "spool.db"), **more)


def test_numbers_go_on_after_a_restart_even_when_all_was_received(tmp_path):
    spool = open_spool(tmp_path)
    assert [spool.append("model", b"a", 1.0) for _ in range(3)] == [1, 2, 3]
    spool.commit(3)
    again = open_spool(tmp_path)
    assert (again.base, len(again)) == (4, 0)
    assert again.append("model", b"b", 2.0) == 4
    assert again.oldest.id == again.id != spool.id and again.oldest.number(4) == 1


def held(spool: Spool) -> list[tuple[str, int, bytes]]:
    """The records that the hub is sent in the end: series, number and body of each record, as the receipts let it
    go.
    """
    found = []
    while len(spool):
        oldest = spool.oldest
        records = [record for record in spool.after(spool.base - 1, 100) if record.seq <= oldest.last]
        found += [(oldest.id, oldest.number(record.seq), record.body) for record in records]
        spool.commit(oldest.upto(found[-1][1]))
    return found


def test_each_process_has_a_series_and_the_oldest_goes_first(tmp_path):
    ids, expected = [], []
    for start in range(3):
        open_spool(tmp_path)._database.close()  # one that wrote nothing leaves nothing
        spool = open_spool(tmp_path)
        ids.append(spool.id)
        for number in (1, 2):
            spool.append("model", b"%d-%d" % (start, number), 1.0)
            expected.append((spool.id, number, b"%d-%d" % (start, number)))
        spool._database.close()
    last = open_spool(tmp_path)
    assert last.oldest == (ids[0], 1, 2) and len(set(ids)) == 3
    assert held(last) == expected
    assert last._database.rows("SELECT COUNT(*) FROM series") == [(4,)]
    assert open_spool(tmp_path)._database.rows("SELECT COUNT(*) FROM series") == [(1,)]


def test_a_copy_and_its_original_never_number_alike(tmp_path):
    spool = open_spool(tmp_path)
    spool.append("model", b"before", 1.0)
    spool._database.close()
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "spool.db", tmp_path / "copy" / "spool.db")
    sent = []
    for folder, body in ((tmp_path, b"original"), (tmp_path / "copy", b"copy")):
        one = open_spool(folder)
        one.append("model", body, 2.0)
        sent += held(one)
    by_number = {(series, number): body for series, number, body in sent}
    assert len(sent) == 4 and sorted(by_number.values()) == [b"before", b"copy", b"original"]
    assert len(by_number) == 3  # what both hold is one record to the hub


def test_what_is_left_of_a_series_can_have_another_name(tmp_path):
    spool = open_spool(tmp_path)
    for body in (b"a", b"b", b"c"):
        spool.append("model", body, 1.0)
    spool.commit(1)
    before = spool.id
    named = spool.rename()
    assert spool.oldest == named == (spool.id, 2, 3) and spool.id != before
    spool.append("model", b"d", 1.0)
    again = open_spool(tmp_path)
    assert held(again) == [(named.id, 1, b"b"), (named.id, 2, b"c"), (named.id, 3, b"d")]


def test_a_disk_that_is_full_at_the_start_keeps_the_series(tmp_path, monkeypatch):
    spool = open_spool(tmp_path)
    spool.append("model", b"a", 1.0)

    @contextmanager
    def full(_self):
        raise SpoolError("no space left")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", full)
        again = open_spool(tmp_path)
    assert again.id == spool.id and again.oldest == (spool.id, 1, 1)
    assert again.append("model", b"b", 1.0) == 2 and again.oldest.last == 2


def test_what_0_1_left_keeps_its_id_and_numbers(tmp_path):
    database = Database(tmp_path / "spool.db")
    with database.transaction() as connection:
        connection.execute("DROP TABLE series")
        connection.executemany("INSERT INTO records VALUES (?, 1.0, 'model', ?)", [(7, b"a"), (8, b"b")])
        set_fact(connection, "top", "8")
    old = database.fact("spool")
    database.close()
    spool = open_spool(tmp_path)
    spool.append("model", b"c", 1.0)
    assert held(spool) == [(old, 7, b"a"), (old, 8, b"b"), (spool.id, 1, b"c")]


def test_a_receipt_for_more_than_there_is_deletes_only_what_is(tmp_path):
    spool = open_spool(tmp_path)
    spool.append("model", b"a", 1.0)
    assert spool.commit(10) == 1
    assert spool.append("model", b"b", 1.0) == 2
    assert spool.base == 2


def test_a_full_spool_gives_up_the_oldest_and_counts_them(tmp_path):
    spool = open_spool(tmp_path, max_bytes=100)
    for _ in range(5):
        spool.append("window", b"x" * 40, 0.0)
    assert (spool.base, spool.top, spool.lost) == (4, 5, 3)
    assert [record.seq for record in spool.after(0, 10)] == [4, 5]
    assert open_spool(tmp_path, max_bytes=100).lost == 3


def test_a_disk_that_refuses_the_file_costs_reports_but_not_the_agent(tmp_path):
    first = Spool(Database(tmp_path / "spool.db"))
    first.append("model", b"a", 1.0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "spool.db").mkdir()  # no file can be made here
    database = Database(tmp_path / "full" / "spool.db")
    assert "unable to open" in database.refusal
    other = Spool(database)
    assert other.append("model", b"b", 1.0) == 1 and other.id != first.id
    assert not list(tmp_path.glob("full/*.damaged-*"))  # what is refused is not damaged


@pytest.mark.parametrize("old", [False, True], ids=["new", "made before"])
def test_nobody_else_reads_what_was_asked(tmp_path, old):
    path = tmp_path / "spool.db"
    if old:
        path.touch(mode=0o644)
    spool = Spool(Database(path))
    spool.append("window", b"x", 0.0)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == dict.fromkeys(
        ["spool.db", "spool.db-wal", "spool.db-shm"], 0o600
    )


def test_a_damaged_file_is_set_aside_and_a_new_sequence_starts(tmp_path):
    spool = open_spool(tmp_path)
    spool.append("model", b"a", 1.0)
    old = spool.id
    spool._database.close()
    (tmp_path / "spool.db").write_bytes(b"not a database" * 100)
    fresh = open_spool(tmp_path)
    assert fresh.id != old
    assert fresh.append("model", b"b", 1.0) == 1
    assert list(tmp_path.glob("spool.db.damaged-*"))


def test_what_was_acknowledged_survives_sigkill(tmp_path):
    path = tmp_path / "spool.db"
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        seen = 0
        for line in writer.stdout:
            seen = int(line)
            if seen % 40 == 0:
                break
        writer.send_signal(signal.SIGKILL)
        seen = max([seen, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        database = Database(path)
        spool = Spool(database)
        assert spool.top >= seen > 0
        assert [record.seq for record in spool.after(0, 10_000)] == list(range(1, spool.top + 1))
        database.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 60)),
        st.tuples(st.just("commit"), st.integers(0, 40)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=examples(40), deadline=None)
@given(STEPS)
def test_the_spool_against_a_model(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("spool")
    spool = open_spool(path, max_bytes=200)
    held: dict[int, int] = {}
    top = lost = 0
    for step, value in steps:
        if step == "append":
            top += 1
            held[top] = value
            assert spool.append("window", bytes(value), 0.0) == top
            while sum(held.values()) > 200 and len(held) > 1:
                del held[min(held)]
                lost += 1
        elif step == "commit":
            spool.commit(value)
            held = {seq: size for seq, size in held.items() if seq > value}
        else:
            spool._database.close()
            spool = open_spool(path, max_bytes=200)
        assert [record.seq for record in spool.after(0, 100)] == sorted(held)
        assert (spool.top, spool.lost, len(spool)) == (top, lost, len(held))
        assert spool.base == (min(held) if held else top + 1)
    spool._database.close()


def test_budget_survives_a_restart_and_keeps_its_reserve(tmp_path):
    now = 10 * 86_400.0
    database = Database(tmp_path / "spool.db")
    budget = Budget(database, lambda: now)
    budget.limit = 1000
    budget.count(up=900)
    budget.save()
    budget = Budget(database, lambda: now)
    budget.limit = 1000
    assert budget.allows(50)
    assert not budget.allows(51)
    assert budget.allows(100, reserved=True)
    assert not budget.allows(101, reserved=True)
    budget = Budget(database, lambda: now + 86_400)
    budget.limit = 1000
    assert budget.allows(950)
    assert budget.up == 900


@pytest.mark.parametrize("back", [1, 30, 19_000])
def test_a_clock_that_jumps_back_gives_no_second_budget(tmp_path, back):
    """Nor does one that comes back to its day, such as a device's without a clock of its own after every start."""
    times, database = [20_000 * 86_400.0], Database(tmp_path / "spool.db")
    budget = Budget(database, lambda: times[0])
    budget.limit = 1000
    budget.count(up=900)
    times[0] -= back * 86_400
    budget.count(up=50)
    assert not budget.allows(1)
    budget.save()
    times[0] += back * 86_400
    budget = Budget(database, lambda: times[0])
    budget.limit = 1000
    assert not budget.allows(1)
    times[0] += 86_400
    assert budget.allows(950)


def test_a_clock_that_had_run_ahead_gives_its_budget_every_day_again(tmp_path):
    times, database = [20_060 * 86_400.0], Database(tmp_path / "spool.db")
    for day in (20_060, 20_000, 20_001, 20_002, 20_060):
        times[0] = day * 86_400.0
        budget = Budget(database, lambda: times[0])
        budget.limit = 1000
        assert budget.left() == (0 if day == 20_000 else 950)
        budget.count(down=budget.left())
        assert budget.renews_at() == (day + 1) * 86_400
        budget.save()
