"""A new rollout: what is wanted, then the plan of it, then its start."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from msgspec.structs import replace

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import (
    Act,
    ActDone,
    ActRequest,
    Button,
    Field,
    Form,
    Table,
    check,
    choices,
    line,
    number,
    number_of,
    request_of,
    select,
)
from cloud_hub.errors import ConflictError
from cloud_hub.rollouts import orders
from cloud_hub.trust import channels, models
from fleet.api.durations import planned_span
from fleet.api.rollouts import NewRollout, RolloutForecast
from fleet.rollouts.forecast import Forecast

PATH = "/act/rollouts"
PLAN, START = "plan", "start"
LABELS = {
    "model": "Model",
    "release": "Release",
    "channel": "Channel",
    "stages": "Stages",
    "soak_s": "Minutes that a stage must stay healthy",
    "guard": "Guard",
    "groups": "Only devices with these labels",
    "schedule": "Window",
}
EVIDENCE = [
    ("paired", "audited pairs: the answers are judged"),
    ("labels", "labels of randomly drawn samples of both releases: the answers are judged"),
    ("signals", "failures, latency and confidence in windows of both releases: answers are not judged"),
    ("install", "install health alone: answers are not judged"),
]
NOTES = 20  # of a plan


def acts() -> list[Act]:
    """The one act."""
    return [
        Act(path=PATH, like="POST /api/v1/rollouts", role="operator", form=_form, do=_do, plain=frozenset({PLAN})),
    ]


def _form(asked: ActRequest) -> Form:
    hub, model = asked.hub, asked.text("model")
    names = [one.name for one in models.list_models(hub)]
    found = models.list_releases(hub, model) if model in names else []
    releases = [(str(one.number), f"{one.number} {one.note}".strip()) for one in found if one.status == "published"]
    held = [one.name for one in channels.list_channels(hub) if not model or model in one.document.models]
    if releases:
        release = select(asked, "release", LABELS["release"], releases)
    else:
        release = number(asked, "release", LABELS["release"], required=True, least=1)
    per_cent = "Per cent of the channel's devices, rising to 100."
    return Form(
        title="New rollout",
        says=["A channel moves to another release in stages; a guard halts it when the release does harm."],
        buttons=[Button(words="Show the plan", step=PLAN)],
        back=places.ROLLOUTS,
        fields=[
            select(asked, "model", LABELS["model"], choices(names, none="choose …"), required=True),
            release,
            select(asked, "channel", LABELS["channel"], choices(held, none="choose …"), required=True),
            line(asked, "stages", LABELS["stages"], "10, 50, 100", hint=per_cent, required=True),
            *_details(asked),
        ],
    )


def _details(asked: ActRequest) -> list[Field]:
    """Return the fields that most rollouts leave as they are."""
    lose, wait = "Points (of 100 requests) that a healthy release may lose", "Hours that a stage waits for evidence"
    groups = "key=value, with commas between them; empty: all of the channel."
    window = "Devices are asked to join only then, such as Mon-Fri 22:00-04:00; empty: at any hour."
    return [
        check(asked, "approval", "Each stage waits for an approval", more=True),
        select(asked, "evidence", "Evidence", EVIDENCE, "paired", more=True),
        number(asked, "margin", lose, "5", least=0, most=100, more=True),
        number(asked, "soak", LABELS["soak_s"], "0", least=0, more=True),
        number(asked, "deadline", wait, "1", least=0, more=True),
        line(asked, "groups", LABELS["groups"], hint=groups, more=True),
        line(asked, "window", LABELS["schedule"], hint=window, more=True),
        line(asked, "zone", "Time zone of the window", "UTC", more=True),
    ]


def wanted_of(asked: ActRequest) -> NewRollout:
    """The rollout that the form asks for.

    Raises:
        InvalidError: a field that cannot be read, or is out of bounds.
    """
    text = asked.text
    guard: dict[str, Any] = {
        "approval": asked.checked("approval"),
        "evidence": text("evidence", "paired"),
        "margin": number_of(text("margin", "5"), "Points that a healthy release may lose") / 100,
        "evidence_deadline_s": number_of(text("deadline", "1"), "Hours that a stage waits for evidence") * 3600,
    }
    stages = [number_of(part.strip().removesuffix("%"), LABELS["stages"]) for part in _parts(text("stages"))]
    window = text("window").strip()
    return request_of(
        NewRollout,
        LABELS,
        model=text("model"),
        channel=text("channel"),
        release=int(number_of(text("release"), LABELS["release"], whole=True)),
        stages=stages,
        soak_s=number_of(text("soak", "0"), LABELS["soak_s"]) * 60,
        groups=_parts(text("groups")),
        guard=guard,
        schedule={"window": window, "time_zone": text("zone").strip() or "UTC"} if window else None,
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _do(asked: ActRequest) -> ActDone | Form:
    wanted = wanted_of(asked)
    found = orders.plan(asked.hub, wanted)
    mark = _mark(wanted, found.from_release)
    if asked.step == PLAN:
        return _planned(asked, found, mark)
    if asked.text("planned") != mark:
        what = "the plan that was shown is not the plan of this, and nothing was started"
        raise ConflictError(what, subject="plan", hint="look at the plan again: a field, or the channel, has changed")
    made = orders.start(asked.hub, wanted, actor=asked.caller.actor, from_release=found.from_release)
    return ActDone(location=places.rollout(made.id))


def _mark(wanted: NewRollout, from_release: int) -> str:
    """Return a mark of the request that a plan was made for: another mark, another plan."""
    text = json.dumps([wanted.model_dump(mode="json"), from_release], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _planned(asked: ActRequest, found: RolloutForecast, mark: str) -> Form:
    """The form with the plan beside it; it can be started unless the plan could never end."""
    ahead = found.forecast
    buttons = [Button(words="Show the plan again", step=PLAN)]
    if not ahead.blockers:
        buttons.append(Button(words="Start this rollout", step=START))
    never = [f"It could never finish: {one.what}. Add: {one.add}." for one in ahead.blockers]
    notes = [f"{note[:1].upper()}{note[1:]}." for note in ahead.notes[:NOTES]]
    stages = [
        [
            f"{one.share_ppm / 10_000:g} %",
            f"{one.devices:,}",
            f"{one.control:,}",
            f"{one.pairs:,}",
            planned_span(one.seconds),
        ]
        for one in ahead.stages
    ]
    heads = ["stage", "devices", "control", "distinct inputs", "takes"]
    return replace(
        _form(asked),
        buttons=buttons,
        hidden={"planned": mark},
        warns=never + notes,
        tables=[
            Table(title="The plan", heads=["what", "how it will be"], rows=_lines(found)),
            Table(title="Its stages", heads=heads, rows=stages),
        ],
    )


def _lines(found: RolloutForecast) -> list[list[str]]:
    ahead: Forecast = found.forecast
    scope = ahead.scope
    others = {
        "pinned": scope.pinned,
        "follow a rule": scope.ruled,
        "outside of the groups": scope.outside,
        "cannot follow": len(scope.unable),
    }
    left = [f"{count:,} {words}" for words, count in others.items() if count]
    lines = [
        ["moves", f"{found.model} {found.from_release} → {found.release} on {found.channel}"],
        ["devices", f"{scope.free:,} of {scope.total:,}" + (f" ({', '.join(left)})" if left else "")],
        ["healthy means", ahead.goal],
        ["takes", planned_span(ahead.seconds)],
        *(["evidence", line] for line in ahead.evidence),
    ]
    if ahead.timetable is not None:
        lines += [["begins", ahead.timetable.begins], ["ends at the earliest", ahead.timetable.ends or "never"]]
    return lines
