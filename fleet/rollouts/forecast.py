"""A forecast of a rollout: devices, distinct inputs and time of each stage, and the conditions that it lacks.

A rollout that could never finish has `blockers`, each with its remedy; `create` refuses it by the same computation.
`notes` are facts that an operator should know and may accept. Times are likely by the measured traffic, no promise.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from fleet.protocol.channel import MILLION
from fleet.protocol.durations import DAY_S
from fleet.rollouts import collusion
from fleet.rollouts.cohorts import planned_counts
from fleet.rollouts.evidence import MIN_ARM
from fleet.rollouts.guard_policy import GuardPolicy, points
from fleet.rollouts.matching import MOST_OF_ONE
from fleet.rollouts.power import POWER, pairs_needed
from fleet.rollouts.schedule import Schedule
from fleet.rollouts.shadow import ShadowForecast
from fleet.rollouts.signals import REQUESTS
from fleet.rollouts.situation import ReportedTraffic, Scope, Situation
from fleet.rollouts.stages import Stage
from fleet.rollouts.timetable import Timetable, timetable

MOST_WATCHED = 100  # devices of each release whose windows are looked at


class StageForecast(Struct, frozen=True, kw_only=True):
    """A stage: devices in cohort and control, the distinct audited inputs that it takes beyond those of the stages
    before (0: none are asked for), and seconds (None: cannot be told)."""

    share_ppm: int
    devices: int
    control: int
    pairs: int
    seconds: float | None


class Blocker(Struct, frozen=True, kw_only=True):
    """A reason for which the rollout could never finish, and its remedy."""

    what: str
    add: str


class Forecast(Struct, frozen=True, kw_only=True):
    """The course that a rollout will take; `goal` is the meaning of "healthy", `pairs` how many `unit` a verdict takes
    on the first stage. `timetable` holds the times by the schedule alone, None without one; `seconds` begin with the
    first order and include it. `shadow`: the stage before the others, if there is one (`shadow_forecast`)."""

    goal: str
    power: float
    pairs: int | None
    scope: Scope
    traffic: ReportedTraffic
    stages: tuple[StageForecast, ...]
    seconds: float | None
    evidence: tuple[str, ...]
    blockers: tuple[Blocker, ...] = ()
    notes: tuple[str, ...] = ()
    timetable: Timetable | None = None
    shadow: ShadowForecast | None = None
    unit: str = "distinct audited inputs"

    @property
    def endless(self) -> str:
        """The reason for which it could never finish, in one sentence; empty when it can."""
        return "; ".join(blocker.what for blocker in self.blockers)

    @property
    def add(self) -> str:
        """The additions that one which could never finish needs."""
        return "; ".join(dict.fromkeys(blocker.add for blocker in self.blockers))


def forecast(
    policy: GuardPolicy, stages: tuple[Stage, ...], at: Situation, schedule: Schedule | None = None
) -> Forecast:
    """Forecast the rollout; without a `schedule` each stage is ordered at once.

    Raises:
        PlanError: the schedule cannot be read.
    """
    counts = planned_counts(at.scope.free, [stage.share_ppm for stage in stages])
    needed = list(_pairs(policy, at.scope.free, counts))
    found = tuple(_stages(policy, stages, at, counts, needed))
    times = [stage.seconds for stage in found]
    table = None if schedule is None else timetable(schedule, stages, counts, at.now)
    seconds = None if None in times else sum(time for time in times if time is not None)
    if table is not None and seconds is not None:  # a soak is in both, and evidence may come while devices are ordered
        paced = None if table.ends_at is None else table.ends_at - table.stages[0].begins_at
        seconds = None if paced is None else max(paced, seconds)
    blockers = list(_blockers(policy, at, counts, needed))
    notes = list(_notes(policy, stages, at, found))
    if schedule is not None and table is not None:
        blockers += _late(schedule, table)
        notes += _paced(schedule, table, at, seconds)
    return Forecast(
        goal=policy.goal,
        power=POWER,
        pairs=needed[0],
        scope=at.scope,
        traffic=at.traffic,
        stages=found,
        seconds=seconds,
        evidence=tuple(_evidence(policy, at, found)),
        blockers=tuple(blockers),
        notes=tuple(notes),
        timetable=table,
        unit=policy.pairs if policy.matches else "distinct audited inputs",
    )


def _late(schedule: Schedule, table: Timetable) -> Iterator[Blocker]:
    """Yield why the schedule could never be kept."""
    if table.ends_at is None:
        what = "to order all of its devices would take more than ten years"
        yield Blocker(what=what, add="a higher rate, or a wider window")
    elif schedule.expires_at is not None and table.ends_at > schedule.expires_at:
        expires = schedule.calendar.words(schedule.expires_at)
        if table.stages[0].begins_at >= schedule.expires_at:
            yield Blocker(
                what=f"its window opens first on {table.begins}, after it has expired on {expires}",
                add="a later expiry, or a window that opens before it",
            )
        else:
            yield Blocker(
                what=f"it can end on {table.ends} at the earliest, and expires on {expires}",
                add="a later expiry, a higher rate, a wider window, or shorter soaks",
            )


def _paced(schedule: Schedule, table: Timetable, at: Situation, seconds: float | None) -> Iterator[str]:
    """Yield the facts that an operator should know of the schedule."""
    if schedule.paces and at.scope.outside:
        some = f"{at.scope.outside} {_devices(at.scope.outside)} outside of the groups"
        yield f"when it finishes, the release is the channel's default, and {some} get it at once"
    if schedule.expires_at is not None and table.ends_at is not None and seconds is not None:
        ends = table.stages[0].begins_at + seconds
        if table.ends_at <= schedule.expires_at < ends:
            expires = schedule.calendar.words(schedule.expires_at)
            yield f"by the measured traffic its evidence takes longer than until its expiry on {expires}"


def _pairs(policy: GuardPolicy, free: int, counts: tuple[int, ...]) -> Iterator[int | None]:
    """Yield the number of pairs that show a stage to be healthy, stage by stage."""
    most, margin, alpha = 0, policy.margin, policy.alpha
    for count in counts:
        devices = count
        if policy.matches:  # a stage that leaves few in control rests on what more of them have shown before
            devices = most = max(most, min(count, free - count))
        if policy.evidence == "install" or (policy.matches and count == free):  # the stages before have shown it
            yield 0
        else:
            yield pairs_needed(
                margin=margin,
                alpha=alpha,
                devices=max(1, devices),
                matched=policy.matches,
                colluders=policy.colluders,
            )


def _stages(
    policy: GuardPolicy,
    stages: tuple[Stage, ...],
    at: Situation,
    counts: tuple[int, ...],
    needed: list[int | None],
) -> Iterator[StageForecast]:
    per_s = at.traffic.requests * at.audit.share_ppm / MILLION / DAY_S  # audited inputs of one device
    per_s *= 1.0 - at.scope.unnamed / max(1, at.scope.free)
    per_s *= 1.0 if at.traffic.distinct is None else at.traffic.distinct
    had = devices_before = 0
    for stage, devices, pairs in zip(stages, counts, needed, strict=True):
        # What is shown by so few that they decide nothing beside others does not count: these must show it, too.
        counting = max(0, devices_before - (0 if policy.matches else policy.colluding(devices)))
        carried = had if devices == devices_before else had * counting // max(1, devices_before)
        fresh = 0 if pairs == 0 else max(policy.min_pairs, (pairs or 0) - carried)
        rate = per_s * devices
        if policy.matches:
            rate = _matched_per_s(policy, at, devices)
        seconds = None if pairs is None or devices == 0 or (fresh and rate <= 0) else stage.soak_s
        if seconds is not None and fresh:
            seconds += fresh / rate
        yield StageForecast(
            share_ppm=stage.share_ppm, devices=devices, control=at.scope.free - devices, pairs=fresh, seconds=seconds
        )
        had, devices_before = had + fresh, devices


def _matched_per_s(policy: GuardPolicy, at: Situation, devices: int) -> float:
    """Return the pairs of both releases that come in a second: each takes an outcome of either."""
    fewer = min(devices, at.scope.free - devices)
    if policy.evidence == "labels":
        return at.traffic.labelled / DAY_S * fewer / max(1, at.scope.free)
    return at.traffic.windows / DAY_S * min(fewer, MOST_WATCHED)


def _evidence(policy: GuardPolicy, at: Situation, stages: tuple[StageForecast, ...]) -> Iterator[str]:
    if policy.evidence == "install":
        yield "time and install health alone: nothing shows whether the answers are right"
    elif policy.evidence == "signals":
        yield "failures, latency and confidence in windows of both releases, against each device's habit before"
        yield "nothing shows whether the answers are right"
    elif policy.matches:
        yield "labels of randomly drawn samples of the release, each matched with one of the release before"
    elif at.audit.auditor is not None and not (at.mute or at.partial):
        share = f"{at.audit.share_ppm / 10_000:g} %"
        yield f"pairs: release {at.audit.auditor} audits {share} of the requests of both releases"
    compared = [number for number, stage in enumerate(stages, 1) if _comparable(at.scope, stage)]
    if compared:
        where = f"stage{'s' if len(compared) > 1 else ''} {', '.join(map(str, compared))}"
        yield f"failed and silent devices against the concurrent control of their hardware class, in {where}"
    if policy.max_p95_us is not None:
        yield f"the measured p95, at most {policy.max_p95_us:g} µs"


def _comparable(scope: Scope, stage: StageForecast) -> bool:
    """Tell whether some hardware class has enough devices in both arms, as it is spread on average."""
    share = stage.devices / scope.free if scope.free else 0.0
    return any(min(count * share, count * (1 - share)) >= MIN_ARM for count in scope.hardware.values())


def _blockers(
    policy: GuardPolicy, at: Situation, counts: tuple[int, ...], needed: list[int | None]
) -> Iterator[Blocker]:
    scope, command = at.scope, f"fleet channel set {at.channel} --model {at.model}"
    if scope.total and not scope.free:
        yield Blocker(
            what=f"none of the {scope.total} devices of channel {at.channel!r} can join: {scope.left}",
            add="update agents, lift pins or rules, or name other groups",
        )
    if scope.free and counts[0] < policy.min_devices:
        has = f"the first stage has {counts[0]} {_devices(counts[0])}"
        what = f"{has}, and {policy.min_devices} have to commit the release"
        yield Blocker(what=what, add="a larger first stage, or a smaller --min-devices")
    if policy.evidence == "install":
        return
    if policy.matches:
        yield from _unmatched(policy, at, counts, needed)
        return
    alone = "or judge by time and install health alone: --evidence install"
    if at.audit.auditor is None or at.mute or at.partial:
        what = f"channel {at.channel!r} has no auditor for {at.model!r}: nothing tells which answers are right"
        yield Blocker(what=at.mute or at.partial or what, add=f"{command} --auditor N, {alone}")
    elif at.audit.share_ppm == 0:
        yield Blocker(what="no request is audited: the audit share is 0", add=f"{command} --audit-share 1, {alone}")
    if 0 < scope.free == scope.unnamed:
        what = "no agent of the devices that can join names the inputs of its audited pairs: they prove nothing"
        yield Blocker(what=what, add=f"update the agents, {alone}")
    for number, (devices, pairs) in enumerate(zip(counts, needed, strict=True), 1):
        if devices and (pairs is None or pairs > devices * at.most_per_device):
            most = f"{devices} {_devices(devices)} bring at most {devices * at.most_per_device} distinct inputs"
            what = f"a margin of {points(policy.margin)} takes {pairs or 'too many'} distinct inputs in stage {number}"
            yield Blocker(what=f"{what}, and {most}", add="a wider margin, such as --guard '{\"margin\": 0.05}'")
            return


def _unmatched(
    policy: GuardPolicy, at: Situation, counts: tuple[int, ...], needed: list[int | None]
) -> Iterator[Blocker]:
    """Yield why labels, or signals, could never show anything."""
    command = f"fleet channel set {at.channel} --model {at.model}"
    labels = policy.evidence == "labels"
    if not labels and not at.traffic.requests:
        what = "no device has reported requests in the last day, so nothing tells what is usual"
        yield Blocker(what=what, add="wait for a day of requests, or --evidence install")
    elif not labels and not at.traffic.windows:
        what = f"no window of the last day has {REQUESTS} requests, and of fewer nothing is said"
        yield Blocker(what=what, add=f"longer ones: fleet channel set {at.channel} --window 1h, or --evidence install")
    if labels and not at.labels:
        what = f"a label of {at.model!r} does not tell by itself whether an answer is right: only of classes it does"
        yield Blocker(what=what, add=f"an auditor: {command} --auditor N, or --evidence install")
    if labels and not at.samples:
        what = f"channel {at.channel!r} draws no samples of {at.model!r} at random, so there is nothing to label"
        yield Blocker(what=what, add=f"{command} --sampling, or --evidence install")
    least, control = policy.least_devices, at.scope.free - counts[0]
    if at.scope.free and min(counts[0], control) < least:
        has = f"the first stage has {counts[0]} {_devices(counts[0])} and {control} beside it"
        what = f"{has}: {policy.pairs} of {least} devices that serve each of the releases have to agree"
        yield Blocker(what=what, add=f"a first stage that has, and leaves, {least} devices; or --evidence install")
        return
    most = counts[0] * MOST_OF_ONE
    if needed[0] is None or needed[0] > most:
        what = f"a margin of {points(policy.margin)} takes {needed[0] or 'too many'} {policy.pairs}"
        yield Blocker(what=f"{what}, and {most} count at most", add="a wider margin, such as --margin 10")


def _notes(
    policy: GuardPolicy, stages: tuple[Stage, ...], at: Situation, found: tuple[StageForecast, ...]
) -> Iterator[str]:
    scope = at.scope
    if not scope.total:
        yield f"channel {at.channel!r} has no devices yet"
    elif scope.free < scope.total:
        yield f"{scope.total - scope.free} of {scope.total} devices keep what they have: {scope.left}"
    if policy.approval:
        yield f"each of the {len(stages)} stages waits for an operator: fleet rollout approve ROLLOUT"
    if policy.evidence == "install":
        if not all(stage.soak_s for stage in stages):
            yield "no soak: a stage ends as soon as its devices have committed; --soak 1h makes it wait"
        return
    if policy.evidence != "signals":
        yield from _to_label(at) if policy.matches else _to_audit(policy, at, found)
    yield from _slow(policy, found)


def _to_label(at: Situation) -> Iterator[str]:
    if not at.traffic.labelled:
        yield "no randomly drawn sample was labelled in the last week, so nothing tells how long this takes"
    yield f"somebody has to label samples of both releases alike: fleet sample list --model {at.model}"


def _to_audit(policy: GuardPolicy, at: Situation, found: tuple[StageForecast, ...]) -> Iterator[str]:
    scope = at.scope
    if at.unproven:
        yield f"{at.unproven}; compile its cloud variant anew to know"
    if 0 < scope.unnamed < scope.free:
        some = f"the audited pairs of {scope.unnamed} of {scope.free} devices"
        yield f"{some} prove nothing until their agents are updated"
    if not at.traffic.requests:
        yield "no traffic was measured in the last day, so nothing tells how long this takes"
    if at.traffic.distinct is not None and at.traffic.distinct < 1.0:
        yield f"in the last rollout {at.traffic.distinct:.0%} of the audited inputs were new; only these count"
    if found[0].devices == 1:
        yield "the first stage is one device: its inputs alone decide whether the others follow"
    elif found[0].devices > 1:
        yield from collusion.notes(found[0].devices, policy.colluders)


def _slow(policy: GuardPolicy, found: tuple[StageForecast, ...]) -> Iterator[str]:
    slow = [number for number, stage in enumerate(found, 1) if (stage.seconds or 0.0) > policy.evidence_deadline_s]
    if slow:
        what = "is halted" if policy.on_no_evidence == "halt" else "holds until the evidence is there"
        where = f"stage{'s' if len(slow) > 1 else ''} {', '.join(map(str, slow))}"
        yield f"{where} will take longer than the evidence deadline of {policy.evidence_deadline_s:g} s: it {what}"


def _devices(count: int) -> str:
    return "device" if count == 1 else "devices"
