"""`fleet token`: claim, operator, application and mirror tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli import output
from fleet.cli.output import print_document, print_items
from fleet.cli.session import JsonFlag, body_of, client_of, parse_pairs, parse_seconds

app = typer.Typer(name="token", help="Claim, operator, application and mirror tokens.", no_args_is_help=True)
COLUMNS = [
    ("id", "id"),
    ("kind", "kind"),
    ("role", "role"),
    ("scope", "scope"),
    ("channel", "channel"),
    ("device", "device_id"),
    ("note", "note"),
    ("expires", "expires_at"),
    ("revoked", "revoked_at"),
]


def _parse_rate(text: str) -> float:
    number = text.removesuffix("/s")
    try:
        return float(number)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a rate; for example 50/s") from None


@app.command("create")
def create(
    context: typer.Context,
    channel: Annotated[str, typer.Option("--channel", help="A claim token: the device will follow this channel.")] = "",
    scope: Annotated[str, typer.Option("--scope", help="An application token: infer:NAME or infer:*.")] = "",
    role: Annotated[str, typer.Option("--role", help="An operator token: viewer, operator or admin.")] = "",
    mirror: Annotated[bool, typer.Option("--mirror", help="A mirror token: reads /tuf and /blobs.")] = False,
    rate: Annotated[str, typer.Option("--rate", help="Application: requests per second, such as 50/s.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", help="Claim: a label key=value; repeatable.")] = None,
    note: Annotated[str, typer.Option("--note", help="What it is for.")] = "",
    expires: Annotated[str, typer.Option("--expires", help="Life, such as 12h or 30d.")] = "",
    json: JsonFlag = False,
) -> None:
    """Create a token; its text is shown this once.

    Example: fleet token create --channel stable --label site=berlin
    """
    kinds = [
        kind
        for kind, given in (("claim", channel), ("application", scope), ("operator", role), ("mirror", mirror))
        if given
    ]
    if len(kinds) != 1:
        raise typer.BadParameter("give one of --channel (claim), --scope (application), --role (operator), --mirror")
    from fleet.api.tokens import NewToken

    wanted = body_of(
        NewToken,
        kind=kinds[0],
        channel=channel or None,
        scope=scope or None,
        role=role or None,
        rate_per_s=_parse_rate(rate) if rate else None,
        labels=parse_pairs(label) if label else None,
        note=note or None,
        expires_in_s=parse_seconds(expires) if expires else None,
    )
    made = client_of(context).create_token(wanted)
    print_document(made, [("id", "id"), ("token", "token"), ("expires", "expires_at")], json=json)
    for warning in made.warnings:
        output.print_note(f"warning: {warning}")
    if made.hub:
        output.print_note(f"next, on the device: edge-agent enroll {made.hub} --token TOKEN --dir DIR")


@app.command("list")
def list_(context: typer.Context, json: JsonFlag = False) -> None:
    """List tokens, without their secrets.

    Example: fleet token list
    """
    print_items(client_of(context).tokens(), COLUMNS, json=json, empty="no tokens")


@app.command("revoke")
def revoke(context: typer.Context, token: Annotated[str, typer.Argument(help="The token's id.")]) -> None:
    """End a token at once.

    Example: fleet token revoke 3f9c0a1b2c3d
    """
    client_of(context).revoke_token(token)


@app.command("delete")
def delete(
    context: typer.Context,
    token: Annotated[str, typer.Argument(help="The token's id.")],
    json: JsonFlag = False,
) -> None:
    """End a token and take it off the list; the audit log keeps that it was there.

    Example: fleet token delete 3f9c0a1b2c3d
    """
    print_document(client_of(context).delete_token(token), COLUMNS[:2], json=json)
