"""Printed answers: the same option everywhere, and CSV that a spreadsheet can be given."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
import typer.main

from fleet import console
from fleet.cli.formats import LISTS
from fleet.cli.main import app
from fleet.cli.output import no_formula

DEVICE = {"id": "d1", "state": "online", "labels": {}, "last_seen_at": 1.8e9, "models": []}


def options() -> dict[str, dict[str, str]]:
    """The help of each option, by command."""
    found, waiting = {}, [("fleet", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        waiting += [(f"{name} {word}", one) for word, one in getattr(command, "commands", {}).items()]
        if not hasattr(command, "commands"):
            found[name] = {p.opts[0]: getattr(p, "help", None) or "" for p in command.params}
    return found


def test_what_prints_json_takes_the_one_option() -> None:
    for name, known in options().items():
        if "--json" in known:
            forms = ["table", "json", *["csv"] * (name.split()[-1] in LISTS)]
            assert known["--output"] == f"How to print it: {', '.join(forms)}.", name


def test_json_by_either_option_is_the_same(fleet, hub) -> None:
    hub.on("GET", "/devices", {"items": [DEVICE], "next": None}).on("GET", "/devices/d1", DEVICE)
    assert fleet("device", "list", "--output", "json").out == fleet("device", "list", "--json").out
    assert fleet("device", "show", "d1", "--output", "json").out == fleet("device", "show", "d1", "--json").out
    assert fleet("device", "list", "--output", "table").out == fleet("device", "list").out


def test_csv_has_a_heading_and_a_row_for_each_thing_and_no_formula(fleet, hub) -> None:
    evil = '=HYPERLINK("http://x","a,b")\n@x'
    items = [DEVICE, {**DEVICE, "id": "d2", "problem": evil, "channel": "-1.5"}]
    hub.on("GET", "/devices", {"items": items, "next": None}, {"items": [], "next": None})
    head, first, second = csv.reader(io.StringIO(fleet("device", "list", "--output", "csv").out))
    assert head[:4] == ["device", "channel", "state", "labels"]
    assert first[0] == "d1" and first[3] == first[5] == "" and first[6].startswith("2027-01-15 ")
    assert second[1] == "-1.5" and second[5] == "'" + evil.replace("\n", "\\n")
    empty = fleet("device", "list", "--output", "csv")
    assert empty.out.splitlines() == [",".join(head)] and empty.err == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a;=1+1", "a;'=1+1"),
        ('a;"@x"', 'a;"\'@x"'),
        ("＝1", "'＝1"),
        ("-1", "-1"),
        ("+1.5e3", "+1.5e3"),
        ("a;b", "a;b"),
        ("-1;-2", "'-1;'-2"),
        ("d1 (committed), d2", "d1 (committed), d2"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_whatever_parts_the_cells(text: str, told: str) -> None:
    assert no_formula(text) == told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_locale(fleet, hub, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ä ☃ \U0001f600 \x9b"
    hub.on("GET", "/devices/d1", {**DEVICE, "problem": text})
    kept = io.BytesIO()
    out = io.TextIOWrapper(kept, encoding=encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        console.write_any_letter()
        assert fleet("device", "show", "d1", "--json").code == 0
    assert json.loads(kept.getvalue().decode(encoding))["problem"] == text


@pytest.mark.parametrize("arguments", ["show d1 --output csv", "list --output yaml", "list --json --output csv"])
def test_a_form_that_does_not_fit_is_refused_before_anything_is_asked(fleet, hub, arguments: str) -> None:
    assert fleet("device", *arguments.split()).code == 2
    assert hub.asked == []
