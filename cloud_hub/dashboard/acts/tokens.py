"""Tokens: made, shown once and revoked; a device's first token with the command to run on it."""

from __future__ import annotations

import shlex

from cloud_hub.dashboard import places
from cloud_hub.dashboard.acts.forms import (
    Act,
    ActDone,
    ActRequest,
    Button,
    Form,
    Told,
    choices,
    line,
    number,
    number_of,
    request_of,
    select,
)
from cloud_hub.errors import InvalidError
from cloud_hub.identity import token_orders
from cloud_hub.identity.tokens import ROLES, role_allows
from cloud_hub.trust import channels, models
from fleet.api.tokens import CreatedToken, NewToken, TokenInfo
from fleet.protocol.names import check_name

LIVES = [
    ("3600", "an hour"),
    ("86400", "a day"),
    ("604800", "a week"),
    ("2592000", "30 days"),
    ("31536000", "a year"),
]
LIFE = "It expires after"
FOLDER = "/var/lib/edge-agent"
LABELS = {"note": "Note", "labels": "Labels", "channel": "Channel", "rate_per_s": "Requests per second"}
ONCE = "It is shown this once: copy it now. The hub keeps only its hash."


def acts() -> list[Act]:
    """Making, revoking, and the first token of a device."""
    return [
        Act(path="/act/devices", like="POST /api/v1/tokens", role="operator", form=_enrol_form, do=_enrol),
        Act(path="/act/tokens", like="POST /api/v1/tokens", role="operator", form=_make_form, do=_make),
        Act(
            path="/act/tokens/{token_id}/revoke",
            like="DELETE /api/v1/tokens/{token_id}",
            role="admin",
            form=_revoke_form,
            do=_revoke,
        ),
    ]


def _enrol_form(asked: ActRequest) -> Form:
    names = [one.name for one in channels.list_channels(asked.hub)]
    name = "1 to 63 lower-case letters, digits and dashes; the hub makes one up otherwise."
    labels = "key=value, with commas between them, such as site=berlin, hw=rpi4."
    only = names[0] if len(names) == 1 else ""
    return Form(
        title="Add a device",
        says=[
            "You get one command to run on the device. It makes a key there and enrols with this hub.",
            "The token in it works once, for one device.",
        ],
        buttons=[Button(words="Make the command")],
        back=places.DEVICES,
        fields=[
            select(asked, "channel", LABELS["channel"], choices(names, none="choose …"), only, required=True),
            line(asked, "name", "Its name (may be empty)", hint=name, longest=63),
            line(asked, "labels", LABELS["labels"], hint=labels),
            select(asked, "life", LIFE, LIVES[:3], "86400", required=True),
        ],
        blocked="" if names else "there is no channel yet: fleet channel create NAME makes one",
    )


def _seconds(asked: ActRequest, lives: list[tuple[str, str]]) -> float:
    life = asked.text("life")
    if life not in dict(lives):
        raise InvalidError("choose after how long it expires", subject="life")
    return float(life)


def _enrol(asked: ActRequest) -> Told:
    name = asked.text("name").strip()
    if name:
        check_name(name, "device")
    wanted = request_of(
        NewToken,
        LABELS,
        kind="claim",
        channel=asked.text("channel"),
        labels=_labels(asked.text("labels")),
        expires_in_s=_seconds(asked, LIVES[:3]),
        note=f"device {name}" if name else "",
    )
    made = token_orders.create(asked.hub, wanted, asked.caller)
    life = dict(LIVES)[asked.text("life")]
    return Told(
        title="Run this on the device",
        says=[
            f"It follows channel {made.channel}. The token works once, within {life}.",
            f"The agent gets there by pip install edgeloop, and runs afterwards by edge-agent run --dir {FOLDER}.",
            ONCE,
        ],
        shown=[("The command", command_of(made, name))],
        warns=list(made.warnings),
        back=places.DEVICES,
    )


def command_of(made: CreatedToken, name: str) -> str:
    """The one command that enrols a device, with its words quoted for a shell."""
    words = ["edge-agent", "enroll", made.hub, "--token", made.token, *(["--name", name] if name else [])]
    return shlex.join([*words, "--dir", FOLDER])


def _labels(text: str) -> dict[str, str]:
    found = {}
    for part in (part.strip() for part in text.split(",")):
        key, equals, value = part.partition("=")
        if part and not equals:
            raise InvalidError(f"not a label: {part[:80]!r}", subject="labels", hint="write key=value")
        if part:
            found[key.strip()] = value.strip()
    return found


def _make_form(asked: ActRequest) -> Form:
    kinds = [("application", "an application: asks models for answers")]
    if role_allows(asked.caller.role, "admin"):
        kinds += [("operator", "a person: this dashboard, fleet and the API"), ("mirror", "a mirror of signed files")]
    names = [one.name for one in models.list_models(asked.hub)]
    scopes = [("", "–"), ("infer:*", "all models"), *((f"infer:{name}", name) for name in names)]
    rate = "Empty: as many as the hub can answer."
    return Form(
        title="New token",
        says=["A token is what a person or a program shows to this hub. A device gets its own by “Add a device”."],
        buttons=[Button(words="Make the token")],
        back=places.ACCESS,
        fields=[
            select(asked, "kind", "For", kinds, required=True),
            select(asked, "role", "Role of a person", choices(ROLES, none="–")),
            select(asked, "scope", "Model of an application", scopes),
            number(asked, "rate", "Requests per second of an application", least=0, hint=rate),
            line(asked, "note", LABELS["note"], hint="Whose it is, and what for."),
            select(asked, "life", LIFE, LIVES, "2592000", required=True),
        ],
    )


def _make(asked: ActRequest) -> Told:
    rate, kind = asked.text("rate").strip(), asked.text("kind")
    wanted = request_of(
        NewToken,
        LABELS,
        kind=kind,
        role=asked.text("role"),
        scope=asked.text("scope"),
        rate_per_s=number_of(rate, LABELS["rate_per_s"]) if rate else 0.0,
        note=asked.text("note"),
        expires_in_s=_seconds(asked, LIVES),
    )
    if kind == "claim":
        raise InvalidError("a device's token is made by “Add a device”", subject="kind")
    made = token_orders.create(asked.hub, wanted, asked.caller)
    return Told(
        title="The new token",
        says=[f"{in_words(made)}. {ONCE}"],
        shown=[("Token", made.token)],
        back=places.ACCESS,
    )


def in_words(token: TokenInfo) -> str:
    """Describe a token in a few words."""
    what = f"Token {token.id}: {token.kind} {token.role or token.scope or token.channel}".rstrip()
    return f"{what} ({token.note})" if token.note else what


def _revoke_form(asked: ActRequest) -> Form:
    token = token_orders.show(asked.hub, asked.names["token_id"])
    says = [f"{in_words(token)}.", "Whoever has it is refused from now on. There is no way back: make a new one."]
    if token.id == asked.caller.id:
        says.append("This is the token that you are logged in with: you will be logged out.")
    return Form(
        title=f"Revoke token {token.id}",
        says=says,
        buttons=[Button(words="Revoke it", danger=True)],
        back=places.ACCESS,
        blocked="this token is revoked already" if token.revoked_at is not None else "",
    )


def _revoke(asked: ActRequest) -> ActDone:
    token_orders.revoke(asked.hub, asked.names["token_id"], actor=asked.caller.actor)
    return ActDone(location=places.ACCESS)
