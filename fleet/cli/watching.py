"""The table of `fleet rollout watch`: the rollout's state, its evidence, and the failed devices with reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.api.durations import time_span
from fleet.cli.output import harmless, local_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fleet.api.rollouts import RolloutEventInfo, RolloutInfo
    from fleet.rollouts.shadow import ShadowVerdict

EVENTS = 5  # of the history, its last ones


def table_of(found: RolloutInfo, events: Sequence[RolloutEventInfo]) -> Table:
    """The rollout in two columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in lines(found, events):
        table.add_row(name, escape(harmless(value)))
    return table


def lines(found: RolloutInfo, events: Sequence[RolloutEventInfo]) -> list[tuple[str, str]]:
    """Return the table's lines, each with its name; the name is empty where a line continues the one above."""
    shares = [f"{share:g} %" for share in found.stages]
    told = [
        ("rollout", f"{found.id}: {found.model} {found.from_release} → {found.release} on {found.channel}"),
        ("state", found.state + (f" ({found.reason})" if found.reason else "")),
    ]
    if found.stage == 0:
        told.append(("stage", f"shadow, before {', '.join(shares)}; nobody is served release {found.release}"))
    elif shares:
        where = f"{found.stage} of {len(shares)}: {shares[min(found.stage, len(shares)) - 1]}"
        told.append(("stage", f"{where}; {found.exposed_devices} devices so far"))
    if found.waits:
        told.append(("schedule", found.waits))
    if found.shadow is not None:
        told += _shadow(found.shadow)
    if found.verdict is not None:
        told += [*_devices(found), *_evidence(found)]
    told += _named("history", [f"{local_time(one.at)}  {one.event}  {one.detail.reason}" for one in events[-EVENTS:]])
    return told


def _shadow(verdict: ShadowVerdict) -> list[tuple[str, str]]:
    told = [("shadow", f"{verdict.judgement}: {verdict.reason}")]
    most = (
        "any share is possible" if verdict.differ_at_most is None else f"at most {100 * verdict.differ_at_most:.3g} %"
    )
    if verdict.inputs:
        share = 100 * verdict.differ / verdict.inputs
        told.append(("answers differ", f"{share:.3g} % of {verdict.inputs} on {verdict.devices} devices; {most}"))
    failed = [
        f"{one.devices} × {one.reason}, such as {one.example}" for one in (*verdict.against, *verdict.not_compared)
    ]
    slower = [] if verdict.slower is None else [("", f"{verdict.slower:.3g} times the other release's time")]
    return [*told, *slower, *_named("not compared", failed)]


def _devices(found: RolloutInfo) -> list[tuple[str, str]]:
    assert found.verdict is not None
    cohort = found.verdict.cohort
    committed = f"{cohort.committed} of {cohort.present} committed"
    counts = [committed, f"{cohort.pending} pending", f"{cohort.failed} failed"]
    counts += [f"{cohort.untried} untried"] * bool(cohort.untried) + [f"{cohort.resting} quiet"] * bool(cohort.resting)
    failed = [f"{one.devices} × {one.reason}, such as {one.example}" for one in cohort.failures]
    return [("devices", ", ".join(counts)), *_named("failures", failed)]


def _evidence(found: RolloutInfo) -> list[tuple[str, str]]:
    verdict = found.verdict
    assert verdict is not None
    told = [("verdict", f"{verdict.judgement}: {verdict.reason}")]
    paired = verdict.paired
    if paired.pairs:
        loss = 100 * (paired.only_old - paired.only_new) / paired.pairs
        most = "any loss is possible" if paired.loss_at_most is None else f"at most {100 * paired.loss_at_most:.3g} %"
        told.append(("net loss", f"{loss:.3g} % of {paired.pairs} pairs on {paired.devices} devices; {most}"))
    left = found.remaining
    if left is not None and left.missing:
        when = "nothing tells when" if left.seconds is None else f"about {time_span(left.seconds)}"
        told.append(("to a verdict", f"{left.missing} more pairs at {left.per_hour:.3g} per hour: {when}"))
    return told


def _named(name: str, texts: list[str]) -> list[tuple[str, str]]:
    return [("" if number else name, text) for number, text in enumerate(texts)]
