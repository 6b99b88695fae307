"""Orders to a rollout: pause, resume, approve, promote, retry, abort."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import Act, ActDone, ActRequest, Button, Field, Form, number_of, request_of
from cloud_hub.rollouts.orders import apply_order, show_rollout
from fleet.api.rollouts import Order, RolloutInfo, RolloutOrder
from fleet.rollouts.machine import ENDED

PAUSABLE, LIVE = ("scheduled", "running", "holding"), ("scheduled", "running", "paused", "holding")


class Meaning(NamedTuple):
    """The meaning of an order, in words, and the states in which it has an effect. `stale`: it is meant for what the
    page showed, and refused once the rollout has moved on; an abort or a pause is meant at any time."""

    verb: str
    says: tuple[str, ...]
    states: tuple[str, ...]
    stale: bool
    danger: bool = False
    reasoned: bool = False


MEANINGS: dict[Order, Meaning] = {
    "pause": Meaning(
        "Pause", ("It grows no further until it is resumed.", "The guard still halts it at any time."), PAUSABLE, False
    ),
    "resume": Meaning("Resume", ("It goes on from where it stands.",), ("paused", "holding"), True),
    "approve": Meaning("Approve", ("This stage may end as soon as it is healthy.",), LIVE, True),
    "promote": Meaning(
        "Promote", ("The next stage begins now, whatever the evidence says.",), LIVE, True, danger=True, reasoned=True
    ),
    "retry": Meaning(
        "Retry",
        ("Devices that rolled back try again.", "The evidence of this attempt is forgotten and gathered anew."),
        LIVE,
        True,
    ),
    "abort": Meaning(
        "Abort",
        ("Every device of the cohort goes back to the release before.", "An aborted rollout cannot be resumed."),
        LIVE,
        False,
        danger=True,
    ),
}


def acts() -> list[Act]:
    """An act for each order."""
    return [
        Act(
            path=f"/act/rollouts/{{rollout}}/{order}",
            like="POST /api/v1/rollouts/{rollout}/{order}",
            role="operator",
            form=partial(_form, order),
            do=partial(_do, order),
        )
        for order in MEANINGS
    ]


def standing(rollout: RolloutInfo) -> str:
    """Return the state of a rollout, in one line that changes whenever an order would mean something else."""
    stage = "its shadow stage" if rollout.stage == 0 else f"stage {rollout.stage} of {len(rollout.stages)}"
    return f"{rollout.state} at {stage}, attempt {rollout.progress.attempt}"


def _form(order: Order, asked: ActRequest) -> Form:
    rollout, meaning = show_rollout(asked.hub, asked.names["rollout"]), MEANINGS[order]
    what = f"{rollout.model} {rollout.from_release} → {rollout.release} on {rollout.channel}"
    stands = standing(rollout)
    blocked = "" if rollout.state in meaning.states else f"this rollout is {rollout.state}: nothing to {order}"
    if blocked and rollout.state in ENDED:
        blocked += ", it has ended"
    wanted = Field(
        name="reason",
        label="Reason" if meaning.reasoned else "Reason (may be empty)",
        value=asked.text("reason"),
        hint="It goes into the rollout's history and the audit log.",
        required=meaning.reasoned,
    )
    return Form(
        title=f"{meaning.verb} rollout {rollout.id}",
        says=[f"{what}: {stands}.", *meaning.says],
        buttons=[Button(words=f"{meaning.verb} the rollout", danger=meaning.danger)],
        back=places.rollout(rollout.id),
        fields=[wanted],
        seen=stands if meaning.stale else "",
        hidden={"stage": str(rollout.stage), "attempt": str(rollout.progress.attempt)} if meaning.stale else {},
        blocked=blocked,
        warns=[rollout.reason] if rollout.reason else [],
    )


def _do(order: Order, asked: ActRequest) -> ActDone:
    hub, name = asked.hub, asked.names["rollout"]
    stage = attempt = None
    if MEANINGS[order].stale:
        stage, attempt = (int(number_of(asked.text(field), field, whole=True)) for field in ("stage", "attempt"))
    wanted = request_of(RolloutOrder, {}, reason=asked.text("reason").strip(), stage=stage)
    apply_order(hub, name, order, wanted.reason, asked.caller.actor, wanted.stage, attempt)
    return ActDone(location=places.rollout(name))
