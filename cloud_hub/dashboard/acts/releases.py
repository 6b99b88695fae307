"""Withdrawing a release, and starting a retrain."""

from __future__ import annotations

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import (
    Act,
    ActDone,
    ActRequest,
    Button,
    Form,
    choices,
    line,
    number,
    number_of,
    request_of,
    select,
)
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.jobs.retraining import check_retrain
from cloud_hub.samples import index
from cloud_hub.trust import channels, models
from fleet.api.jobs import RetrainOptions
from fleet.api.releases import Withdrawal
from fleet.api.rollouts import RolloutOptions
from fleet.api.types import INT32

LABELS = {"seed": "Seed", "max_bytes": "Bytes that a device may fetch for the new release", "channel": "Channel"}


def acts() -> list[Act]:
    """Both."""
    return [
        Act(
            path="/act/models/{model}/releases/{number}/withdraw",
            like="POST /api/v1/models/{model}/releases/{number}/withdraw",
            role="operator",
            form=_withdraw_form,
            do=_withdraw,
        ),
        Act(
            path="/act/models/{model}/retrain",
            like="POST /api/v1/models/{model}/retrain",
            role="operator",
            form=_retrain_form,
            do=_retrain,
        ),
    ]


def _number(asked: ActRequest) -> int:
    text = asked.names["number"]
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or not 0 < int(text) <= INT32:
        raise NotFoundError(f"no release {text[:40]!r} of {asked.names['model']!r}", subject="number")
    return int(text)


def _withdraw_form(asked: ActRequest) -> Form:
    model, number_ = asked.names["model"], _number(asked)
    release = models.show_release(asked.hub, model, number_)
    what, status = f"release {number_} of {model}", release.status.replace("-", " ")
    blocked = ""
    if release.status == "withdrawn":
        blocked = f"{what} is withdrawn already"
    elif release.status != "published":
        blocked = f"{what} is {status}: only a published one is withdrawn"
    hint = "It goes into the audit log."
    return Form(
        title=f"Withdraw {what}",
        says=[
            f"Release {number_} of {model}{f' ({release.note})' if release.note else ''} is {status}.",
            "No device installs it any more: a withdrawn release never comes back.",
            "A channel that still names it has to be moved to another release first.",
        ],
        buttons=[Button(words="Withdraw it for ever", danger=True)],
        back=places.model(model),
        fields=[line(asked, "reason", "Reason", required=True, hint=hint)],
        blocked=blocked,
    )


def _withdraw(asked: ActRequest) -> ActDone:
    model, reason = asked.names["model"], asked.text("reason").strip()
    if not reason:
        raise InvalidError("withdrawing a release needs a reason", subject="reason")
    wanted = request_of(Withdrawal, {}, reason=reason)
    asked.hub.publisher.withdraw(model, _number(asked), wanted.reason, actor=asked.caller.actor)
    return ActDone(location=places.model(model))


def _retrain_form(asked: ActRequest) -> Form:
    hub, name = asked.hub, asked.names["model"]
    model = models.show_model(hub, name)
    snapshots = [one for one in index.list_snapshots(hub) if one.model == name]
    taken = [(one.id, f"{one.id[:12]}: {one.samples:,} samples, {one.labelled:,} labelled") for one in snapshots]
    data = [("", "a new snapshot of all samples"), *taken]
    held = [one.name for one in channels.list_channels(hub) if name in one.document.models]
    where = choices(held, none="no channel: only publish it")
    return Form(
        title=f"Retrain {name}",
        says=[
            f"Its recipe, {model.recipe or 'none yet'}, trains a new release from the samples and their labels.",
            "The release goes through the same gates as any; without a channel it waits for a rollout of yours.",
        ],
        buttons=[Button(words="Start the retrain")],
        back=places.model(name),
        fields=[
            select(asked, "snapshot", "Data", data),
            select(asked, "channel", "Roll it out on", where, hint="It becomes the auditor there, too."),
            number(asked, "seed", LABELS["seed"], "0", least=0, most=INT32, more=True),
            number(asked, "max_bytes", LABELS["max_bytes"], least=1, most=INT32, more=True, hint="Empty: any."),
        ],
        blocked="" if model.recipe else f"{name} has no recipe: fleet model change {name} --recipe RECIPE sets one",
    )


def _retrain(asked: ActRequest) -> ActDone:
    text, channel, most = asked.text, asked.text("channel"), asked.text("max_bytes").strip()
    options = request_of(
        RetrainOptions,
        LABELS,
        snapshot=text("snapshot"),
        channel=channel,
        rollout=RolloutOptions() if channel else None,
        seed=int(number_of(text("seed", "0"), LABELS["seed"], whole=True)),
        max_bytes=int(number_of(most, LABELS["max_bytes"], whole=True)) if most else None,
    )
    job = check_retrain(asked.hub, asked.names["model"], options, actor=asked.caller.actor)
    return ActDone(location=places.job(job.id))
