"""`cloud-hub drift backtest` from files to its report, by the production engine."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.backtest.answers import OperatorAnswer, Then
from cloud_hub.backtest.columns import HistoricRow
from cloud_hub.backtest.loading import load
from cloud_hub.backtest.run import BacktestOptions, run
from cloud_hub.backtest.windows import WindowMaker
from tests.cloud_hub.backtest.conftest import BEGAN, NAMES, history, write_csv
from tests.support.commands import call

USUAL_OPTIONS = ("--device", "machine", "--group", "site", "--window", "2h", "--look", "1d")
HOT = np.array([2.0, 0.0])


def backtest(*words: object) -> dict[str, Any]:
    answer = call("cloud-hub", "drift", "backtest", *words, "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_a_device_that_moves_is_named_with_its_moment_and_its_feature(release: Path, tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 8, lambda name, day, row: row + HOT * (name == "m1" and day >= 5))
    found = backtest(release, file, *USUAL_OPTIONS)
    (alarm,) = found["alarms"]
    assert alarm["about"] == "inputs" and alarm["detail"]["devices"] == ["m1"]
    assert abs(alarm["detail"]["since"] - (BEGAN + 5 * 86_400)) <= 6 * 3600
    assert alarm["at"] <= BEGAN + 6 * 86_400 and alarm["closed"] == "rebaseline"
    assert alarm["detail"]["features"][0]["name"] == "temperature"
    assert (found["rows"], found["windows"], found["windows_too_small"]) == (8640, 288, 0)
    assert logging.getLogger("cloud_hub").level == logging.NOTSET, "what runs after it logs as before"
    steady = {(one["kind"], one["name"]): one["steady_at"] for one in found["streams"]}
    assert all(BEGAN + 86_400 <= steady["device", name] <= BEGAN + 4 * 86_400 for name in ("m0", "m2"))
    assert steady["device", "m1"] is None  # it was begun anew


def test_a_quiet_history_has_no_alarm_and_says_what_was_watched(release: Path, tmp_path: Path) -> None:
    answer = call("cloud-hub", "drift", "backtest", release, history(tmp_path / "h.csv", 4), *USUAL_OPTIONS)
    assert answer.stdout.startswith("4,320 rows of 3 devices from 2023-11-14 00:00") and "silent" not in answer.stdout
    assert "no alarm\n" in answer.stdout and "data quality: watched: 144 of 144 windows" in answer.stdout


def test_what_never_was_steady_promises_nothing(release: Path, tmp_path: Path) -> None:
    found = call("cloud-hub", "drift", "backtest", release, history(tmp_path / "h.csv", 1.5), *USUAL_OPTIONS)
    assert "never: nothing is promised" in found.stdout and "baselines never became steady" in found.stdout


def test_alarms_are_answered_as_it_is_said(release: Path, tmp_path: Path) -> None:
    """A lasting change comes again against the same baseline, and is usual after a new one."""
    file = history(tmp_path / "h.csv", 8, lambda name, day, row: row + HOT * (day >= 4))
    counts = {
        then: len(backtest(release, file, *USUAL_OPTIONS, "--then", then)["alarms"])
        for then in ("rebaseline", "close", "keep")
    }
    assert counts["rebaseline"] == 1 < counts["close"]


def test_broken_data_is_told(release: Path, tmp_path: Path) -> None:
    def gone(name: str, day: float, row: np.ndarray) -> np.ndarray:
        return np.array([np.nan, row[1]]) if name == "m2" and day >= 3 and int(day * 1440) % 8 == 0 else row

    found = backtest(release, history(tmp_path / "h.csv", 5, gone), *USUAL_OPTIONS)
    (alarm,) = [one for one in found["alarms"] if one["about"] == "data quality"]
    assert alarm["detail"]["devices"] == ["m2"] and "NaN" in alarm["detail"]["reason"] and found["refused"] > 300


def test_a_feature_that_only_grows_is_left_out(release: Path, tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 5, lambda name, day, row: np.array([20 + day * 0.5, row[1]]))
    found = backtest(release, file, *USUAL_OPTIONS)
    assert "temperature, only grows or falls, on 3 of 3 devices" in found["monitor"]["left_out"]


def test_silence_is_no_health(release: Path, tmp_path: Path) -> None:
    heading, *lines = history(tmp_path / "whole.csv", 8).read_text().splitlines(keepends=True)
    heard = [line for line in lines if not 4 <= (float(line.split(",")[0]) - BEGAN) / 86_400 < 6]
    (tmp_path / "h.csv").write_text(heading + "".join(heard))
    found = backtest(release, tmp_path / "h.csv", *USUAL_OPTIONS)
    (silence,) = found["silences"]
    assert abs(silence["since"] - (BEGAN + 4 * 86_400)) <= 2 * 3600 and silence["until"] >= BEGAN + 5.9 * 86_400


def test_one_device_with_windows_of_a_day_gets_its_baseline_before_they_are_put_away(
    release: Path, tmp_path: Path
) -> None:
    file = history(tmp_path / "h.csv", 40, every=3600, devices=1)
    found = backtest(release, file, "--device", "machine", "--window", "1d")
    (device,) = [one for one in found["streams"] if one["kind"] == "device"]
    assert device["windows"] >= 38 and device["baseline"] == "period" and not found["monitor"]["uncounted"]


def test_many_times_of_silence_are_summed_up(release: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    on = (BEGAN + 60 * minute for minute in range(40 * 1440) if minute % 4320 < 240)
    rows = [[at, "m0", *random.normal((20, 1), (2, 0.2))] for at in on]
    file = write_csv(tmp_path / "h.csv", ["time", "machine", *NAMES], rows)
    answer = call("cloud-hub", "drift", "backtest", release, file, "--device", "machine", "--window", "1h")
    assert answer.stdout.count("the monitor was silent") == 5 and "silent 8 more times" in answer.stdout


def test_answers_that_become_wrong_are_found_by_their_labels(release: Path, tmp_path: Path) -> None:
    """The inputs stay: nobody but labels can tell."""
    random = np.random.default_rng(5)

    def rows():
        for second in range(0, 20 * 86_400, 600):
            right = random.random() < (0.95 if second < 12 * 86_400 else 0.75)
            truth = int(random.random() < 0.5)
            yield BEGAN + second, "m0", *random.normal([20, 1], [2, 0.2]), truth, truth if right else 1 - truth

    file = write_csv(tmp_path / "h.csv", ["time", "machine", *NAMES, "truth", "said"], rows())
    words = ("--device", "machine", "--window", "6h", "--label", "truth", "--prediction", "said", "--label-delay", "1d")
    found = backtest(release, file, *words)
    (alarm,) = found["alarms"]
    assert alarm["about"] == "answers" and "answers agree with labels" in alarm["detail"]["reason"]
    assert BEGAN + 13 * 86_400 < alarm["at"] < BEGAN + 17 * 86_400
    # Those of the last day come a day after the end.
    assert (found["labelled"], found["labels_to_come"]) == (2880, 143)


def test_every_label_counts_in_its_order_whatever_windows_are_open(release: Path, tmp_path: Path) -> None:
    """Windows of devices end at different times; a label that comes after a later one would not count."""
    rows = (
        (BEGAN + 600 * number, f"m{number % 3}", 20, 1, "ok", "ok" if number % 10 else "worn") for number in range(900)
    )
    file = write_csv(tmp_path / "h.csv", ["time", "machine", *NAMES, "truth", "said"], rows)
    words = ("--device", "machine", "--window", "11h", "--look", "1d", "--label", "truth", "--prediction", "said")
    assert backtest(release, file, *words)["monitor"]["labels"]["counted"] == 900


def test_windows_that_are_too_short_are_said_with_what_would_do(release: Path, tmp_path: Path) -> None:
    answer = call(
        "cloud-hub", "drift", "backtest", release, history(tmp_path / "h.csv", 0.5, devices=2), "--device", "machine"
    )
    assert answer.returncode == 1 and "no window had enough inputs" in answer.stderr
    assert "360 windows have fewer than 20 inputs" in answer.stderr and "try --window 2h" in answer.stderr


def test_the_policy_is_the_hubs(release: Path, tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 5, lambda name, day, row: row + HOT * (day >= 3))
    deaf = backtest(release, file, *USUAL_OPTIONS, "--policy", '{"drift": {"least_effect": 0.9}}')
    assert deaf["alarms"] == []
    answer = call("cloud-hub", "drift", "backtest", release, file, "--policy", '{"drift": {"baselin": "1d"}}')
    assert answer.returncode == 1 and "policy.drift.baselin" in answer.stderr


def test_the_alarms_are_csv_for_other_programs(release: Path, tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 6, lambda name, day, row: row + HOT * (day >= 4))
    answer = call("cloud-hub", "drift", "backtest", release, file, *USUAL_OPTIONS, "--output", "csv")
    (row,) = csv.DictReader(io.StringIO(answer.stdout))
    assert row["about"] == "inputs" and "temperature" in row["what"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--window", "an hour"), 2, "--window: 'an hour' is no duration"),
        (("--label-delay", "soon"), 2, "--label-delay: 'soon' is no duration"),
        (("--time-zone", "Mars/Olympus"), 2, "no zone 'Mars/Olympus'"),
        (("--label", "truth"), 2, "--label and --prediction belong together"),
        (("--policy", "{"), 2, "--policy is not a JSON document"),
        (("--json", "--output", "csv"), 2, "do not go together"),
        (("--time", "when"), 1, "--time: there is no column 'when'"),
        (("--features", "y=temperature"), 1, "the release has no input 'y'"),
    ],
)
def test_what_cannot_be_meant_is_said(words, code: int, said: str, release: Path, tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 0.01)
    answer = call("cloud-hub", "drift", "backtest", release, file, *words)
    assert (answer.returncode, said in answer.stderr) == (code, True), answer.stderr


def test_a_release_that_is_missing_or_none_is_said(release: Path, tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 0.01)
    assert call("cloud-hub", "drift", "backtest", tmp_path / "no", file).returncode == 3
    (release / "manifest.json").write_text("{}")
    answer = call("cloud-hub", "drift", "backtest", release, file)
    assert answer.returncode == 1 and str(release) in answer.stderr


def test_rows_are_taken_as_they_come_and_not_gathered(release: Path) -> None:
    """A history may be longer than memory: of each row only what its window draws is kept."""
    loaded, ahead = load(release), []
    options = BacktestOptions(
        policy={},
        answer=OperatorAnswer(then=Then.keep, after_s=0.0),
        window_s=3600.0,
        window_rows=1000,
        look_s=21_600.0,
    )
    maker = WindowMaker(loaded.manifest, loaded.encoder, window_s=3600.0, most=1000)
    random = np.random.default_rng(0)

    def rows():
        for number in range(3000):
            ahead.append(sum(len(one.drawn) for one in maker._open.values()))
            values = random.normal([20, 1], [2, 0.2]).astype(np.float32)
            yield HistoricRow(at=BEGAN + 60.0 * number, device="a", labels=(), inputs={"x": values})

    outcome = run(rows(), loaded.release, maker, options)
    assert outcome.rows == 3000 and max(ahead) <= 60
