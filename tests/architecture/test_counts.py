"""The counts of a run of the tests: made in pieces they add up, and never say more than was run."""

from __future__ import annotations

import json

from tests.support import counts

FILES = ("tests/a/test_one.py", "tests/b/test_two.py")
pytest_plugins = ("pytester",)


def row(**changes):
    full = {"commit": "c1", "date": "d1", "size": "full", "machine": "m", "seconds": 1.0, "reasons": []}
    return {**full, "tests": 2, "passed": 2, "failed": 0, "skipped": 0, "examples": 5, **changes}


def test_it_is_whole_when_every_file_has_passed_in_the_full_size():
    made = counts.document({name: row() for name in FILES}, FILES)
    assert made["whole"] and made["total"] == {"passed": 4, "failed": 0, "skipped": 0, "examples": 10}


def test_it_says_what_keeps_it_from_being_whole():
    first, second = FILES
    for lack, rows in {
        "missing": {first: row()},
        "small": {first: row(), second: row(size="small")},
        "unfinished": {first: row(), second: row(passed=1)},
        "failed": {first: row(), second: row(passed=1, failed=1)},
        "skipped": {first: row(), second: row(passed=1, skipped=1)},
    }.items():
        made = counts.document(rows, FILES)
        assert not made["whole"] and made[lack] == [second]


def test_a_file_that_is_gone_takes_its_row_along():
    made = counts.document({name: row() for name in FILES}, FILES[:1])
    assert list(made["rows"]) == [FILES[0]] and made["total"]["passed"] == 2


def test_a_piece_replaces_its_rows_and_leaves_the_others():
    before = {FILES[0]: row(failed=1), FILES[1]: row(commit="c0")}
    after = counts.add(before, {FILES[0]: row(commit="c2", date="d2")})
    assert after == {FILES[0]: row(commit="c2", date="d2"), FILES[1]: row(commit="c0")}
    assert counts.document(after, FILES)["commits"] == ["c0", "c2"]


def test_both_parts_of_one_run_add_up():
    part = row(passed=1, reasons=["x: why"])
    both = counts.add({FILES[0]: part}, {FILES[0]: part})[FILES[0]]
    assert (both["tests"], both["passed"], both["examples"], both["seconds"]) == (2, 2, 10, 2.0)
    assert both["reasons"] == ["x: why", "x: why"]


def test_the_text_has_one_line_for_each_row():
    made = counts.document({name: row() for name in FILES}, FILES)
    assert json.loads(counts.text(made)) == made
    assert sum(line.startswith('  "tests/') for line in counts.text(made).splitlines()) == len(FILES)


def test_a_file_that_is_done_is_kept_before_the_run_ends(pytester, monkeypatch):
    for name in ("test_one", "test_two"):
        pytester.makepyfile(**{f"tests/{name}": "def test_passes(): pass\ndef test_passes_too(): pass"})
    monkeypatch.setattr(counts, "ROOT", pytester.path)
    file, kept = pytester.path / "counts.json", []

    class Watching:
        def pytest_collection_modifyitems(self, items):
            counts.note(items)

        def pytest_runtest_setup(self, item):
            kept.append(sorted(json.loads(file.read_text())["rows"]) if file.exists() else [])

    plugin = counts.Counts(file, {"commit": "c", "date": "d", "size": "full", "machine": "m"})
    pytester.inline_run("-p", "no:cacheprovider", plugins=[plugin, Watching()])
    assert kept == [[], [], ["tests/test_one.py"], ["tests/test_one.py"]]
    assert json.loads(file.read_text())["whole"]


def test_a_run_counts_what_passed_failed_was_skipped_or_left_out(pytester, monkeypatch):
    pytester.makepyfile(
        test_here="""
        import pytest
        from hypothesis import given, settings, strategies as st
        @settings(max_examples=7)
        @given(st.integers())
        def test_property(n): pass
        def test_fails(): assert 0
        @pytest.fixture
        def broken(): raise OSError
        def test_errs(broken): pass
        def test_skipped(): pytest.skip("no screen")
        def test_left_out(): pass
        """
    )
    monkeypatch.setattr(counts, "ROOT", pytester.path)
    file = pytester.path / "counts.json"

    class Noting:
        def pytest_collection_modifyitems(self, items):
            counts.note(items)

    plugin = counts.Counts(file, {"commit": "c", "date": "d", "size": "full", "machine": "m"})
    pytester.inline_run("-k", "not left_out", "-p", "no:cacheprovider", plugins=[plugin, Noting()])
    (made,) = plugin.rows.values()
    assert (made["tests"], made["passed"], made["failed"], made["skipped"], made["examples"]) == (5, 1, 2, 1, 7)
    assert made["reasons"] == ["test_skipped: Skipped: no screen"]
    assert json.loads(file.read_text())["rows"] == {}  # none of `tests` below the project
