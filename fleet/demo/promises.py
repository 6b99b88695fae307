"""The demo's promises, checked against its measured report. Pure: a document in, sentences out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Report = dict[str, Any]

INT8_POINTS = 1.0  # int8 within this many percentage points of fp32
RECOVERY_POINTS = 5.0  # edge-only accuracy after the retrain against before the shift
MIN_LABELS = 300  # uploaded samples that the annotator labelled


def broken(report: Report) -> list[str]:
    """Each promise that the report breaks, as a sentence with the figures; empty when all hold."""
    return [sentence for check in CHECKS for sentence in check(report)]


def _requests(report: Report) -> Iterator[str]:
    requests = report["requests"]
    if requests["failed"]:
        yield f"{requests['failed']} of {requests['total']} requests failed; none may"
    if not requests["edge"] or not requests["cloud"]:
        yield f"{requests['edge']} answers came from the edge and {requests['cloud']} from the cloud; both must answer"


def _quantization(report: Report) -> Iterator[str]:
    accuracy = report["accuracy"]
    drop = 100 * (accuracy["student_fp32"] - accuracy["student_int8"])
    if drop > INT8_POINTS:
        yield f"int8 is {drop:.1f} points below fp32; at most {INT8_POINTS} are allowed"


def _rollouts(report: Report) -> Iterator[str]:
    outcomes = {rollout["release"]: rollout for rollout in report["rollouts"]}
    for release, expected in ((2, "finished"), (3, "halted"), (4, "finished")):
        outcome = outcomes.get(release, {}).get("outcome", "absent")
        if outcome != expected:
            yield f"the rollout of release {release} is {outcome}, it should be {expected}"
    bad = outcomes.get(3, {})
    if bad.get("exposed_devices", 0) != 1:
        yield f"the bad release reached {bad.get('exposed_devices', 0)} devices; it should reach one"


def _drift(report: Report) -> Iterator[str]:
    drift = report["drift"]
    if drift["alarms_before_shift"]:
        yield f"{drift['alarms_before_shift']} drift alarms came before the shift"
    if drift["alarm_after_requests"] is None:
        yield "no drift alarm came after the shift"
    if drift["alarms_after_retrain"]:
        yield f"{drift['alarms_after_retrain']} drift alarms came after the retrain"
    if drift["labels"] < MIN_LABELS:
        yield f"{drift['labels']} uploaded samples were labelled; at least {MIN_LABELS} should be"


def _recovery(report: Report) -> Iterator[str]:
    over_time = report["accuracy_over_time"]
    before, during, after = (over_time[key]["edge_only"] for key in ("before_shift", "during_shift", "after_retrain"))
    lost = 100 * (before - after)
    if lost > RECOVERY_POINTS:
        yield f"edge accuracy after the retrain is {lost:.1f} points below before the shift (limit {RECOVERY_POINTS})"
    if after <= during:
        yield f"edge accuracy did not recover: {during:.3f} during the shift, {after:.3f} after the retrain"


def _kill(report: Report) -> Iterator[str]:
    kill = report["kill"]
    if sorted(kill["states"]) != ["fetching", "trying"]:
        yield f"agents were killed in the states {kill['states']}, not in fetching and trying"
    if kill["requests_failed"]:
        yield f"{kill['requests_failed']} requests failed while processes were killed"
    if not kill["recovered"]:
        yield "a killed agent did not finish its update"


CHECKS: tuple[Callable[[Report], Iterator[str]], ...] = (_requests, _quantization, _rollouts, _drift, _recovery, _kill)
