"""Logs for programs: a JSON document in each line, whatever is logged, and no credential in it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_hub.config import HubConfig
from cloud_hub.errors import InvalidError
from edge_agent.config import load_config
from edge_agent.errors import UsageError
from fleet.console import logs
from fleet.console.logs import JsonLines, set_up

SECRETS = ("el1.abc.def", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "hunter2", "AAAAkeyAAAA")


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], io.StringIO]]:
    """Makes this a process whose log nobody has set up (pytest's own comes in when a test begins); what it says."""
    out, root = io.StringIO(), logging.getLogger()
    level = root.level

    def process() -> io.StringIO:
        monkeypatch.setattr(root, "handlers", [])
        monkeypatch.setattr(sys, "stderr", out)
        return out

    yield process
    root.setLevel(level)


def lines(said: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in said.getvalue().splitlines()]


def test_each_line_is_a_document_with_its_ids(begin) -> None:
    said = begin()
    set_up("INFO", "json", program="cloud-hub", role="all")
    logging.getLogger("cloud_hub.x").info(
        "rollout %s\nsays %s", "r1", "é", extra={"rollout": "r1", "release": 2, "_own": 3}
    )
    logging.getLogger("cloud_hub.x").debug("left out")
    (line,) = lines(said)
    assert str(line.pop("time")).endswith("Z") and isinstance(line.pop("process"), int)
    assert line == {
        "level": "info",
        "logger": "cloud_hub.x",
        "message": "rollout r1\nsays é",
        "program": "cloud-hub",
        "role": "all",
        "rollout": "r1",
        "release": 2,
    }


def test_no_credential_is_in_message_ids_or_trace(begin) -> None:
    said = begin()
    set_up("INFO", "json")
    try:
        raise ValueError(f"password={SECRETS[2]}")
    except ValueError:
        logging.getLogger("x").exception("token %s of %s", SECRETS[0], SECRETS[1], extra={"note": f"key: {SECRETS[3]}"})
    (line,) = lines(said)
    assert "ValueError" in str(line["trace"]) and not [secret for secret in SECRETS if secret in said.getvalue()]


def test_whatever_is_logged_is_one_line_and_bounded(begin) -> None:
    said = begin()
    set_up("INFO", "json")
    log = logging.getLogger("x")
    log.info("half a letter \udcff, a NUL \x00", extra={"level": "mine", "odd": object(), "long": "y" * 10**6})
    log.info("x" * 10**6)
    first, second = lines(said)
    assert first["level"] == "info" and len(str(first["long"])) == len(str(second["message"])) == logs.LONGEST


def test_the_form_is_changed_and_another_log_stays(begin, monkeypatch) -> None:
    said = begin()
    set_up("INFO")
    logging.getLogger("x").info("for people")
    set_up("WARNING", "json")
    logging.getLogger("x").warning("for programs")
    text, document = said.getvalue().splitlines()
    assert text.endswith("INFO x: for people") and json.loads(document)["message"] == "for programs"
    others = logging.StreamHandler(said)
    monkeypatch.setattr(logging.getLogger(), "handlers", [others])
    set_up("INFO", "json")
    assert not isinstance(others.formatter, JsonLines) and logging.getLogger().handlers == [others]


def test_hub_and_agent_take_the_form_from_their_files_and_variables(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hub.toml").write_text('log_format = "json"')
    (tmp_path / "agent.toml").write_text('log_format = "json"')
    assert HubConfig.load(tmp_path).log_format == load_config(tmp_path, environ={}).log_format == "json"
    assert HubConfig.load(tmp_path, log_format="text").log_format == "text"
    assert load_config(tmp_path, environ={"EDGELOOP_LOG_FORMAT": "text"}).log_format == "text"
    monkeypatch.setenv("EDGELOOP_HUB_LOG_FORMAT", "xml")
    with pytest.raises(InvalidError, match="log_format"):
        HubConfig.load(tmp_path)
    with pytest.raises(UsageError, match="log_format"):
        load_config(tmp_path, environ={"EDGELOOP_LOG_FORMAT": "xml"})


def test_credentials_are_hidden_before_a_long_line_is_cut() -> None:
    """A piece of one beside a cut is not known as one: so it is hidden first, and what may be a piece is left out."""
    key = "-----BEGIN PRIVATE KEY-----\n" + "QUJD" * 400 + "\n-----END PRIVATE KEY-----"
    for place in (logs.LONGEST, 2 * logs.LONGEST, 5 * logs.LONGEST):
        for offset in range(-1700, 1700, 97):
            before, after = "x " * ((place + offset) // 2), " y" * logs.LONGEST
            for cut in (logs._begin, logs._end):
                for secret, piece in ((key, "QUJD"), ('password="correct horse battery staple"', "horse")):
                    found = cut(before + secret + after)
                    assert piece not in found and len(found) <= logs.LONGEST
    assert logs._begin("plain") == logs._end("plain") == "plain"
