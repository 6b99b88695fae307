"""Commands to devices: what is sent, what comes of each answer, and that no answer can harm who reads it."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.api import diagnosis
from fleet.api.devices import DeviceDetail
from fleet.cli import device_commands
from fleet.cli.output import print_json

NOW = 1.8e9
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r\nerror: forged [/red]"


@pytest.fixture
def device(hub):
    """Lay down a device that is online, and how it answers the next command."""

    def lay(*states: dict[str, Any], **fields: Any) -> None:
        hub.on("GET", "/devices/d1", {"id": "d1", "state": "online", "last_seen_at": NOW, **fields})
        hub.on("POST", "/devices/d1/commands", {"id": "c-1", "device": "d1"}, status=202)
        hub.on("GET", "/devices/d1/commands/c-1", *(command(state) for state in states))

    return lay


def command(state: dict[str, Any]) -> dict[str, Any]:
    known = {"id": "c-1", "device": "d1", "kind": "k", "created_at": NOW, "expires_at": NOW + 9, "state": "sent"}
    return {**known, **state}


def answer(data: Any = None, *, ok: bool = True, detail: str = "") -> dict[str, Any]:
    said = {"ok": ok, "detail": detail, "data": data or {}, "at": NOW, "received_at": NOW}
    return {"state": "answered", "answer": said}


def test_a_device_that_is_well_says_so_and_one_without_requests_is_not_called_well(fleet, hub, device) -> None:
    models = {"digits": {"serving": 2, "requests": 0}, "faces": {"serving": 1, "requests": 5}}
    device({"state": "waiting"}, {"state": "sent"}, answer({"models": models}))
    outcome = fleet("device", "diagnose", "d1")
    assert outcome.code == 0 and "d1 has answered: nothing ill" in outcome.out
    assert "nothing is known of: digits\n" in outcome.out
    assert hub.sent("POST", "/devices/d1/commands") == [{"kind": "diagnose", "args": {}}]


def test_how_the_machine_does_is_said_and_what_of_it_is_ill(fleet, device, monkeypatch) -> None:
    monkeypatch.setattr("fleet.cli.session.time.time", lambda: NOW + 30)
    vitals = {"at": NOW, "cpu": 0.5, "memory": 1 << 30, "memory_free": 1 << 20, "celsius": 90.0}
    device(answer({}), vitals=vitals)
    out = fleet("device", "diagnose", "d1").out
    assert "its memory is nearly full: 1 MiB of 1 GiB free" in out and "it is hot: 90 °C" in out
    assert "cpu 50 % busy, memory 1 MiB of 1 GiB free, temperature 90 °C\n" in out
    shown = fleet("device", "show", "d1").out
    assert "90 °C" in shown and "machine told:" in shown and "disk" not in shown


def test_the_hours_of_a_machine_are_listed_and_none_is_said(fleet, hub, monkeypatch) -> None:
    monkeypatch.setattr("fleet.cli.session.time.time", lambda: NOW)
    hour = {"begins": 1_799_996_400, "heartbeats": 60, "cpu": 0.5, "cpu_most": 0.9, "celsius": 61.0}
    hub.on("GET", f"/devices/d1/vitals?since={NOW - 2 * 86400!r}&limit=1000", {"items": [hour]}, {"items": []})
    out = fleet("device", "vitals", "d1", "--since", "2d").out
    assert "50 % busy, 90 % at most" in out and "61 °C" in out and " 60 " in out
    assert "it told nothing of its machine" in fleet("device", "vitals", "d1", "--since", "2d").err


def test_what_is_ill_is_said_with_why_and_what_to_do(fleet, device) -> None:
    reported = {
        "model": "digits",
        "state": "rolled_back",
        "active": 1,
        "reason": "selftest-failed",
        "detail": "off by 1",
    }
    disk = {"free_bytes": 5, "reserve_bytes": 16 << 20}
    models = {"digits": {"serving": 1, "requests": 10, "failures": 4, "reason": "selftest-failed"}}
    said = {"clock": "untrusted", "disk": disk, "models": models, "outbox": {"lost": 3}}
    device(answer(said), problem="hub-unreachable", hint="look at the network", models=[reported], set_aside=2)
    outcome = fleet("device", "diagnose", "d1")
    for words in (
        "1. it has a problem: hub-unreachable\n   try: look at the network\n",
        "model digits: selftest-failed\n   off by 1\n",
        "the release fails on 4 of 10 requests\n   try: fleet device logs d1\n",
        "its clock is not trusted",
        "its disk is full: 5 bytes are free, 16777216 have to stay so",
        "3 of its reports were given up",
        "try: fleet device set-aside d1",
    ):
        assert words in outcome.out, words
    assert outcome.out.count("selftest-failed") == 1 and outcome.out.startswith("d1 has answered: 7 things")
    document = fleet("device", "diagnose", "d1", "--json").document
    assert document["answered"] and len(document["ill"]) == 7 and document["answer"] == said


def test_a_device_that_is_offline_is_not_asked_and_what_is_known_of_it_is_said(fleet, hub, device) -> None:
    device(state="offline", problem="disk-full", hint="make room")
    outcome = fleet("device", "diagnose", "d1")
    assert outcome.code == 6 and "is offline: it was heard last at 2027-01-15" in outcome.err
    assert "of d1 its hub knows: 1 thing to look at\n1. it has a problem: disk-full" in outcome.out
    assert fleet("device", "logs", "d1").code == 6 and fleet("device", "bench", "d1").code == 6
    assert hub.sent("POST", "/devices/d1/commands") == []


def test_a_revoked_device_takes_no_commands(fleet, hub, device) -> None:
    device(state="revoked")
    assert [fleet("device", word, "d1").code for word in ("diagnose", "logs", "bench")] == [5, 5, 5]
    assert hub.sent("POST", "/devices/d1/commands") == []


@pytest.mark.parametrize(
    ("state", "words"), [("waiting", "waits in the hub, which does not send"), ("sent", "no answer has come")]
)
def test_waiting_ends_and_says_where_the_command_is(fleet, hub, device, state: str, words: str) -> None:
    device({"state": state})
    outcome = fleet("device", "logs", "d1", "--timeout", "20")
    assert outcome.code == 8 and words in outcome.err and "in 20 s" in outcome.err
    looks = [path for method, path, *_ in hub.asked if path.endswith("c-1")]
    assert 5 < len(looks) < 20, "often at first, then every two seconds"


def test_a_device_that_refuses_is_quoted(fleet, device) -> None:
    device(answer(ok=False, detail="command 'logs' is unknown here"))
    outcome = fleet("device", "logs", "d1")
    assert outcome.code == 1 and "did not do 'logs': command 'logs' is unknown here" in outcome.err
    assert "update the agent" in outcome.err


def test_log_lines_come_oldest_first_with_their_trace_behind_them(fleet, hub, device) -> None:
    lines = [
        {"at": NOW, "level": "WARNING", "name": "edge_agent.update", "text": "look: refused"},
        {"at": NOW + 1, "level": "ERROR", "name": "edge_agent", "text": "failed\nTraceback\nKeyError"},
    ]
    device(answer({"lines": lines, "left_out": 7}))
    outcome = fleet("device", "logs", "d1", "--lines", "2", "--since", "15m")
    first, second, *trace = outcome.out.splitlines()
    assert first.endswith("WARNING edge_agent.update: look: refused") and second.endswith("edge_agent: failed")
    assert trace == ["    Traceback", "    KeyError"] and "7 older lines" in outcome.err
    assert hub.sent("POST", "/devices/d1/commands") == [{"kind": "logs", "args": {"lines": 2, "seconds": 900.0}}]
    assert fleet("device", "logs", "d1", "--json").document == {"lines": lines, "left_out": 7, "device": "d1"}


def test_bench_measures_each_model_and_one_failure_takes_no_other_along(fleet, hub, device) -> None:
    figures = {"model": "a", "release": 1, "variant": "v", "runtime": "r", "p50_us": 41.0, "rounds": 50}
    models = [{"model": name, "state": "committed", "active": 1} for name in ("b", "a")]
    device(answer(ok=False, detail="crashed"), answer(figures), models=[*models, {"model": "c", "state": "idle"}])
    outcome = fleet("device", "bench", "d1", "--rounds", "50")
    assert outcome.code == 1 and "b: device 'd1' did not do 'benchmark': crashed" in outcome.err
    assert "41" in outcome.out
    asked = [sent["args"] for sent in hub.sent("POST", "/devices/d1/commands")]
    assert asked == [{"model": "b", "rounds": 50}, {"model": "a", "rounds": 50}]


def test_a_device_without_a_release_has_nothing_to_measure(fleet, device) -> None:
    device(models=[])
    assert fleet("device", "bench", "d1").code == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(ESCAPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=3,
)
NAMES = ("clock", "problem", "hint", "models", "disk", "outbox", "samples", "broker", "tuf_expires", "bundle")
PARTS = ("state", "serving", "requests", "failures", "reason", "detail", "lost", "free_bytes", "dropped", "digits")
ANSWERS = st.dictionaries(
    st.sampled_from((*NAMES, "certificate_expires", "lines", "left_out")),
    VALUES
    | st.dictionaries(
        st.sampled_from(PARTS), VALUES | st.dictionaries(st.sampled_from(PARTS), VALUES, max_size=3), max_size=3
    ),
    max_size=4,
)


@settings(max_examples=30)
@given(ANSWERS)
def test_no_answer_can_break_the_diagnosis(said: dict[str, Any]) -> None:
    device = DeviceDetail(id="d1", channel="stable", state="online")
    for finding in diagnosis.findings(device, said, NOW):
        assert all(isinstance(text, str) and len(text) < 3 * diagnosis.TEXT for text in finding)
    assert isinstance(diagnosis.untold(said), list)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(("at", "level", "name", "text", "x")), VALUES | st.text(max_size=40)))
def test_no_log_line_moves_the_cursor_or_forges_another(line: dict[str, Any]) -> None:
    first, *rest, end = device_commands.line_of(line).split("\n")
    assert first.isprintable() and end == "" and all(part.startswith("    ") and part.isprintable() for part in rest)


@settings(max_examples=30)
@given(st.text(max_size=60) | st.just(ESCAPES + "\x7f\u2028\U000e0001ä☃"))
def test_json_holds_what_was_sent_and_moves_no_cursor(text: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_json({"text": text})
    assert all(line.isprintable() for line in out.getvalue().split("\n"))
    assert json.loads(out.getvalue()) == {"text": text}


def test_escapes_and_markup_in_reports_are_shown_and_never_obeyed(fleet, hub) -> None:
    reported = {"model": "digits", "state": "fetching", "reason": "[/red]" + ESCAPES, "detail": ESCAPES, "at": 1e300}
    found = {"id": "d1", "state": "online", "problem": ESCAPES, "hint": ESCAPES, "models": [reported]}
    hub.on("GET", "/devices", {"items": [found], "next": None}).on("GET", "/devices/d1", found)
    for arguments in (("list",), ("show", "d1"), ("list", "--json"), ("show", "d1", "--json")):
        outcome = fleet("device", *arguments)
        assert outcome.code == 0, arguments
        assert all(line.isprintable() for line in (outcome.out + outcome.err).split("\n")), arguments
        assert not any(line.startswith("error:") for line in outcome.err.splitlines())
    assert "[/red]" in fleet("device", "list").out.replace("\n", "").replace(" ", "")
    assert fleet("device", "show", "d1", "--json").document["problem"] == ESCAPES, "a program gets what was sent"


@pytest.fixture
def sampled(hub, device):
    """Lay down whether the device's channel samples `digits`."""

    def lay(enabled: bool, *states: dict[str, Any]) -> None:
        device(*states, channel="stable")
        models = {"digits": {"release": 1, "sampling": {"enabled": enabled}}}
        document = {"channel": "stable", "version": 2, "models": models}
        hub.on("GET", "/channels/stable", {"name": "stable", "version": 2, "document": document})

    return lay


def test_a_device_is_asked_for_samples_where_its_channel_samples(fleet, hub, sampled) -> None:
    will = {"model": "digits", "samples": 20, "max_bytes": 1 << 20, "until": NOW, "sampling": True, "redacted": True}
    sampled(True, answer({**will, "id": "x" * 90}))
    ask = ("device", "samples", "d1", "-m", "digits", "--ask", "20", "--for", "6h", "--max-mib", "1")
    outcome = fleet(*ask)
    assert "samples at most: 20" in outcome.out and "2027-01-15" in outcome.out and "xxx" not in outcome.out
    args = {"model": "digits", "count": 20, "max_bytes": 1 << 20, "seconds": 21_600.0}
    assert hub.sent("POST", "/devices/d1/commands") == [{"kind": "send-samples", "args": args}]
    assert fleet(*ask, "--out", "x.parquet").code == 2


def test_no_device_is_asked_where_its_channel_samples_nothing(fleet, hub, sampled) -> None:
    sampled(False)
    outcome = fleet("device", "samples", "d1", "-m", "digits", "--ask", "20")
    assert outcome.code == 5 and "fleet channel set stable --model digits --sampling" in outcome.err
    assert fleet("device", "samples", "d1", "-m", "other", "--ask", "20").code == 3
    assert hub.sent("POST", "/devices/d1/commands") == []


def test_the_samples_that_came_are_listed_and_written_to_a_file(fleet, hub, tmp_path) -> None:
    sample = {"id": "s1", "model": "digits", "device_id": "d1", "reason": "random"}
    hub.on("GET", "/samples?model=digits&device=d1", {"items": [sample], "next": None})
    hub.on("GET", "/samples/export?model=digits&device=d1", b"PAR1")
    assert fleet("device", "samples", "d1", "-m", "digits", "--json").document["items"][0]["id"] == "s1"
    out = tmp_path / "d1.parquet"
    assert fleet("device", "samples", "d1", "-m", "digits", "-o", str(out)).code == 0 and out.read_bytes() == b"PAR1"


def test_a_device_is_deleted_in_as_many_calls_as_that_takes(fleet, hub) -> None:
    hub.on("DELETE", "/devices/d1", {"id": "d1", "rows": 500, "left": True}, {"id": "d1", "rows": 3, "samples": 2})
    outcome = fleet("device", "delete", "d1")
    assert outcome.code == 0 and "rows deleted:      503" in outcome.out and "samples that stay: 2" in outcome.out
    assert fleet("device", "delete", "d2").code == 3


def record(number: int) -> dict[str, Any]:
    return {"at": NOW + number, "level": "INFO", "name": "edge_agent", "text": f"line {number}"}


def records(*numbers: int) -> dict[str, Any]:
    return answer({"lines": [record(number) for number in numbers]})


@pytest.mark.parametrize(
    ("known", "found", "new"),
    [
        ((1, 2, 3), (2, 3, 4, 5), (4, 5)),
        ((2, 3), (1, 2, 3, 4), (4,)),
        ((1, 2, 3), (1, 2, 3), ()),
        ((1, 2), (), ()),
        ((), (1, 2), (1, 2)),
        ((1, 2), (7, 8), (7, 8)),
        ((1, 5, 5), (5, 5, 5, 6), (5, 6)),  # the same line again: what lies before tells which one is known
    ],
)
def test_what_is_new_in_a_log_follows_what_is_known(known, found, new) -> None:
    wrap = lambda numbers: [record(number) for number in numbers]  # noqa: E731
    assert list(device_commands.beyond(wrap(known), wrap(found))) == wrap(new)


def test_a_log_is_followed_and_each_line_told_once(fleet, hub, device) -> None:
    device(records(1, 2), records(1, 2, 3), records(3, 4), answer(ok=False, detail="enough"))
    outcome = fleet("device", "logs", "d1", "--follow", "--json")
    assert [json.loads(line)["text"] for line in outcome.out.splitlines()] == [f"line {n}" for n in (1, 2, 3, 4)]
    assert outcome.code == 1 and "did not do 'logs': enough" in outcome.err
    first, second, *_ = hub.sent("POST", "/devices/d1/commands")
    assert first["args"] == {"lines": 100} and second["args"] == {"lines": 1000, "seconds": 35.0}


def test_a_log_is_followed_over_the_time_in_which_its_device_is_away_and_ends_with_its_revocation(fleet, hub) -> None:
    states = ("online", "online", "offline", "offline", "online", "revoked")
    hub.on("GET", "/devices/d1", *({"id": "d1", "state": state} for state in states))
    hub.on("POST", "/devices/d1/commands", {"id": "c-1", "device": "d1"}, status=202)
    hub.on("GET", "/devices/d1/commands/c-1", *map(command, (records(7), {"state": "expired"}, records(7, 8))))
    outcome = fleet("device", "logs", "d1", "--follow")
    assert outcome.code == 5 and outcome.err.count("it is asked again") == 1
    assert [line.split(": ")[1] for line in outcome.out.splitlines()] == ["line 7", "line 8"]
    assert hub.sent("POST", "/devices/d1/commands")[-1]["args"]["seconds"] > 45.0, "from before it was away"
