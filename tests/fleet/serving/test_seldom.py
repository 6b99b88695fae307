"""The log's bound."""

from __future__ import annotations

import io
import logging

from fleet.serving.seldom import BURST, WINDOW_S, Seldom


def test_a_place_that_floods_is_cut_off_and_counted_and_others_are_not(tmp_path):
    now = [100.0]
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Seldom(lambda: now[0]))
    log = logging.getLogger("tests.seldom")
    log.addHandler(handler)
    log.propagate = False

    def complain(number):
        log.warning("request %d failed", number)

    for number in range(1000):
        complain(number)
    log.warning("another place")
    lines = stream.getvalue().splitlines()
    assert lines == [f"request {number} failed" for number in range(BURST)] + ["another place"]
    now[0] += WINDOW_S
    complain(1000)
    complain(1001)
    assert stream.getvalue().splitlines()[BURST + 1 :] == [
        f"request 1000 failed ({1000 - BURST} more lines like this were left out)",
        "request 1001 failed",
    ]
    log.removeHandler(handler)
