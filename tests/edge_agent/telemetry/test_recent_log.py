"""The agent's latest log lines: bounded, in their order, and without secrets."""

from __future__ import annotations

import itertools
import logging
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import UsageError
from edge_agent.telemetry import recent_log
from edge_agent.telemetry.recent_log import RecentLog
from fleet.console.hiding import HIDDEN, hidden


@pytest.fixture
def log():
    ticks = itertools.count(0.0, 1.0)  # seconds between two lines: none are left out
    kept = RecentLog(lambda: 310.0, lambda: next(ticks))
    logger = logging.Logger("edge_agent.test")
    logger.addHandler(kept)
    return kept, logger


def texts(kept: RecentLog, **arguments) -> list[str]:
    return [line["text"] for line in kept.answer(arguments)["lines"]]


def test_the_newest_lines_come_in_their_order(log) -> None:
    kept, logger = log
    for number in range(150):
        logger.info("line %d", number)
    assert texts(kept, lines=3) == ["line 147", "line 148", "line 149"]
    assert len(texts(kept)) == 100
    assert kept.answer({"lines": 3})["left_out"] == 147


def test_only_lines_of_the_last_time(log) -> None:
    kept, _ = log
    for number, created in enumerate((100.0, 200.0, 300.0)):
        record = logging.LogRecord("a", logging.INFO, "", 0, f"line {number}", None, None)
        record.created = created
        kept.handle(record)
    assert texts(kept, seconds=115) == ["line 1", "line 2"]


def test_a_flood_of_long_lines_keeps_memory_and_answer_within_bounds(log) -> None:
    kept, logger = log
    for number in range(400):
        logger.warning("%d %s", number, "x" * 5000)
    answer = kept.answer({"lines": 1000})
    assert len(kept._lines) <= recent_log.LINES and kept._size <= recent_log.BYTES
    assert len(msgspec.msgpack.encode(answer)) < 60 << 10
    assert answer["lines"][-1]["text"].startswith("399 ") and answer["left_out"] > 0


def test_a_flood_from_one_place_does_not_drive_the_others_out() -> None:
    kept, logger = RecentLog(lambda: 0.0, lambda: 0.0), logging.Logger("edge_agent.test")
    logger.addHandler(kept)
    logger.error("the model cannot be loaded")
    for number in range(5000):
        logger.info("refused %d", number)
    logger.info("after")
    told = texts(kept, lines=1000)
    assert told[0] == "the model cannot be loaded" and told[-1] == "after" and len(told) == 22


@given(st.lists(st.text(max_size=700), max_size=200))
def test_no_lines_make_an_answer_that_no_message_takes(lines: list[str]) -> None:
    kept = RecentLog(lambda: 0.0)
    for text in lines:
        kept.handle(logging.LogRecord("n", logging.INFO, "", 0, "%s", (text,), None))
    assert len(msgspec.msgpack.encode(kept.answer({"lines": 1000}))) < 64 << 10


def test_letters_of_many_bytes_fit_too_and_what_is_no_text_is_shown_by_its_number(log) -> None:
    kept, logger = log
    for number in range(90):
        logger.warning("%d %s", number, "\U0001f600" * 500)
    logger.warning("no file %s", "caf\udce9")
    answer = kept.answer({"lines": 1000})
    assert len(msgspec.msgpack.encode(answer)) < 60 << 10 and kept._size <= recent_log.BYTES
    assert answer["lines"][-1]["text"] == "no file caf\\udce9" and len(answer["lines"]) > 10


def test_a_trace_is_kept_by_its_end(log) -> None:
    kept, logger = log
    try:
        raise KeyError("password=hunter2 " + "y" * 5000)
    except KeyError:
        logger.exception("it failed")
    (text,) = texts(kept)
    assert text.startswith("it failed\n…") and text.endswith("yyy'") and len(text) < 1700


class Unprintable:
    def __str__(self) -> str:
        raise LookupError("no text")


def test_a_record_that_cannot_be_formatted_stops_nothing(log, capsys) -> None:
    kept, logger = log
    logger.info("%d", "no number")
    logger.info("%(missing)s", {"other": 1})
    logger.info("%s", Unprintable())
    logger.info("after")
    assert texts(kept) == ["after"]


@pytest.mark.parametrize(
    "secret",
    [
        "el1.t7.c2VjcmV0LXZhbHVl.cGlu",
        "eld1.kiosk-7.1800000000.c2lnbmF0dXJl",
        "eln1.abc.c2VjcmV0",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "c2VjcmV0LXZhbHVl",
    ],
)
def test_credentials_are_hidden(secret: str) -> None:
    for text in (
        f"Authorization: Bearer {secret}, then more",
        f"GET https://user:{secret}@hub.example/x failed",
        f'{{"token": "{secret}", "other": 1}}',
        f"mqtt_password={secret}",
        f"EDGELOOP_TOKEN='{secret}'",
        f"api-key: {secret}",
        f"passphrase = {secret}",
        f"private_key: '{secret}'",
        f"key={secret}",
        f'{{\\"secret\\": \\"{secret}\\"}}',
        f'"password": "a\\"{secret}"',
        f"postgresql://hub:a@{secret}@db/edgeloop",
        f"GET /b?X-Amz-Signature={secret}&x=1",
    ):
        assert secret not in hidden(text) and HIDDEN in hidden(text), text
    if secret.startswith(("el", "ey")):
        assert secret not in hidden(f"called with {secret} and failed")


def test_a_private_key_is_hidden_whole_and_plain_words_stay() -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"
    assert hidden(f"read {key} here") == f"read {HIDDEN} here"
    assert hidden(key[:40] + "\ncut off") == HIDDEN
    for plain in (
        "look: https://hub.example:8443/tuf/1.root.json answered 503 for model digits, release 2",
        "KeyError: 'digits', with keyboard: us and monkey = 1",
    ):
        assert hidden(plain) == plain


@pytest.mark.parametrize("piece", ["token", "eyJ-", "://a", "password = ", "x", "-----BEGIN PRIVATE KEY-----", "el1."])
def test_no_text_is_slow_to_be_read(piece: str) -> None:
    began = time.process_time()
    hidden((piece * recent_log.READ)[: recent_log.READ])
    assert time.process_time() - began < 1.0, "some milliseconds, where it does not go over the text again and again"


@pytest.mark.parametrize("arguments", [{"lines": 0}, {"lines": 1e9}, {"lines": "5"}, {"lines": True}, {"seconds": -1}])
def test_what_was_asked_for_is_checked(log, arguments) -> None:
    with pytest.raises(UsageError):
        log[0].answer(arguments)
    with pytest.raises(UsageError):
        log[0].answer({"seconds": float("nan")})
