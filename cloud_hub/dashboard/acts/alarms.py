"""Closing an alarm of drift, and beginning baselines anew."""

from __future__ import annotations

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import Act, ActDone, ActRequest, Button, Form, check, line, request_of, select
from cloud_hub.drift import monitors
from cloud_hub.errors import InvalidError, NotFoundError
from fleet.api.drift import AlarmInfo, Rebaseline
from fleet.api.types import INT32

DEVICES = 20  # of an alarm that are named


def acts() -> list[Act]:
    """Both."""
    return [
        Act(
            path="/act/alarms/{alarm}/close",
            like="POST /api/v1/alarms/{alarm}/close",
            role="operator",
            form=_close_form,
            do=_close,
        ),
        Act(
            path="/act/models/{model}/rebaseline",
            like="POST /api/v1/drift/{model}/rebaseline",
            role="operator",
            form=_rebaseline_form,
            do=_rebaseline,
        ),
    ]


def _alarm(asked: ActRequest) -> AlarmInfo:
    text = asked.names["alarm"]
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(INT32)):
        raise NotFoundError(f"no alarm {text[:40]!r}", subject="alarm", hint="see: fleet drift status")
    return monitors.show_alarm(asked.hub, int(text))


def _close_form(asked: ActRequest) -> Form:
    alarm = _alarm(asked)
    what = alarm.detail.reason or f"an alarm of {alarm.model}"
    hint = "Baselines may learn their week from it."
    usual = check(asked, "usual", "What came while it was open is usual at its hours of the week", hint=hint)
    return Form(
        title=f"Close alarm {alarm.id}",
        says=[
            f"{alarm.model}, release {alarm.release}: {what}",
            "What it names goes on being watched against the same baseline, with its evidence from nothing.",
            "If inputs will stay as they are now, begin the baseline anew instead.",
        ],
        buttons=[Button(words="Close the alarm")],
        back=places.DRIFT,
        fields=[usual] if alarm.detail.kind == "inputs" else [],
        blocked="this alarm is closed already" if alarm.status == "closed" else "",
        seen=alarm.status,
    )


def _close(asked: ActRequest) -> ActDone:
    monitors.close_alarm(asked.hub, _alarm(asked).id, actor=asked.caller.actor, usual=asked.checked("usual"))
    return ActDone(location=places.DRIFT)


def _rebaseline_form(asked: ActRequest) -> Form:
    model = asked.names["model"]
    found = monitors.list_monitors(asked.hub, model)
    watched = [str(one.release) for one in found if one.sketch_id]
    releases = [("", "every release that is watched"), *((one, one) for one in watched)]
    hint = "Ids with commas between them; empty: all devices, groups and the fleet."
    return Form(
        title=f"Begin the baseline of {model} anew",
        says=[
            "What devices see from now on is what is usual. Alarms about all of it are closed.",
            "Until there is a new baseline, drift is watched against a provisional one.",
        ],
        buttons=[Button(words="Begin anew", danger=True)],
        back=places.DRIFT,
        fields=[
            select(asked, "release", "Release", releases),
            line(asked, "devices", "Only these devices", hint=hint, longest=10_000),
        ],
        blocked="" if watched else f"no inputs of {model} are watched",
    )


def _rebaseline(asked: ActRequest) -> ActDone:
    devices = [one.strip() for one in asked.text("devices").split(",") if one.strip()]
    release = asked.text("release")
    if release and not (release.isascii() and release.isdecimal()):
        raise InvalidError(f"{release[:40]!r} is no release", subject="release")
    wanted = request_of(
        Rebaseline,
        {"devices": "Only these devices"},
        release=int(release) if release else None,
        devices=devices or None,
    )
    monitors.rebaseline(asked.hub, asked.names["model"], wanted, actor=asked.caller.actor)
    return ActDone(location=places.DRIFT)
