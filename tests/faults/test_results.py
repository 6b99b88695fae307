"""The table's file: a run that is not whole does not take the place of one that was."""

from __future__ import annotations

import json

import pytest

from tests.support.faults import results
from tests.support.faults.judge import Verdict

pytestmark = pytest.mark.fault


@pytest.fixture
def rows(monkeypatch):
    """A full run that has every row."""
    monkeypatch.setattr(results, "ROWS", [])
    monkeypatch.setattr(results, "FULL", True)
    for row in results.ROWS_OF_ALL:
        results.keep(row, "all", [Verdict(name=row)], seed=[2, 1, 2])
    return results.ROWS


def test_a_whole_run_takes_the_name(rows, tmp_path):
    file = tmp_path / "faults.json"
    assert results.write(file, status=0, skipped=[], deselected=0) == file
    written = json.loads(file.read_text())
    assert written["whole"] and written["missing"] == [] and written["rows"][0]["seeds"] == [1, 2]


@pytest.mark.parametrize(
    ("status", "skipped", "deselected", "lost"),
    [(1, [], 0, 0), (2, [], 0, 0), (0, ["t: why"], 0, 0), (0, [], 3, 0), (0, [], 0, 1)],
)
def test_any_other_is_written_beside(rows, tmp_path, status, skipped, deselected, lost):
    file = tmp_path / "faults.json"
    file.write_text("whole")
    del rows[:lost]
    beside = results.write(file, status=status, skipped=skipped, deselected=deselected)
    assert file.read_text() == "whole" and beside == tmp_path / "faults.incomplete.json"
    written = json.loads(beside.read_text())
    assert not written["whole"] and (written["status"], written["skipped"]) == (status, skipped)
    assert written["missing"] == list(results.ROWS_OF_ALL[:lost])


def test_a_row_that_nobody_would_miss_is_refused(rows):
    with pytest.raises(AssertionError, match="nobody would miss it"):
        results.keep("another", "all", [])
