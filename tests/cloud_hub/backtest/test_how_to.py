"""`docs/how-to/watch-for-drift.md` works as it stands where it says so: its files are written, its commands run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import follow

PAGE = (Path(__file__).parents[3] / "docs/how-to/watch-for-drift.md").read_text()
PART = PAGE.split("## Try it on your own history", 1)[1]


def test_the_history_of_the_page_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = follow(PART, tmp_path)
    assert "1 alarm" in said and "pump-2" in said and "temperature" in said
    assert "2026-03-07" in said, said
