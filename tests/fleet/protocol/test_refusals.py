"""One table of words for refusals, for hub and agent; the documentation names each."""

from __future__ import annotations

import re
from pathlib import Path

from cloud_hub import errors
from fleet.protocol.refusals import CODES, LATER, STATUS, code_of

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "how-to" / "call-the-api.md"


def kinds(root: type[errors.HubError]) -> list[type[errors.HubError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


def test_every_word_has_a_status_and_a_line_in_the_documentation() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(code, int(status)) for status, code, _ in rows] == [(code, STATUS[code]) for code in CODES]
    assert {code for _, code, text in rows if "`Retry-After`" in text} == {c for c in CODES if STATUS[c] in LATER}


def test_a_rate_and_a_full_queue_are_told_apart() -> None:
    rate, full = errors.RateError("too often"), errors.BusyError("full")
    assert (rate.code, rate.status, full.code, full.status) == ("rate-limited", 429, "busy", 503)


def test_every_error_of_the_hub_has_a_word_of_the_table() -> None:
    assert {kind.code for kind in kinds(errors.HubError)} <= set(CODES)
    assert all(kind("x").status == STATUS[kind.code] for kind in kinds(errors.HubError))


def test_the_listener_refuses_with_words_of_the_table() -> None:
    """It imports nothing of ours, so its words stand in its code; statuses of HTTP alone have the nearest word."""
    sources = (path.read_text() for path in (ROOT / "fleet" / "serving").glob("*.py"))
    used = [pair for text in sources for pair in re.findall(r'error_reply\(\s*(\d{3}), "([a-z-]+)"', text)]
    assert len(used) > 5 and {code for _, code in used} <= set(CODES)
    assert {(status, code) for status, code in used if int(status) != STATUS[code]} <= {
        ("431", "too-large"),
        ("501", "invalid"),
    }


def test_a_status_without_a_word_of_its_own_says_whose_fault_it_is() -> None:
    assert [code_of(status) for status in (404, 405, 418, 502)] == [
        "not-found",
        "method-not-allowed",
        "invalid",
        "internal",
    ]
