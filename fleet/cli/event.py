"""`fleet event`: what people are told, and whether it reached them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.output import print_document, print_items, print_note
from fleet.cli.session import JsonFlag, SinceOption, TimeoutOption, client_of, session_of
from fleet.errors import FailedError

if TYPE_CHECKING:
    from fleet.api.events import DeliveryInfo, EventInfo

app = typer.Typer(name="event", help="Events that people are told of, and their way there.", no_args_is_help=True)
EventArgument = Annotated[str, typer.Argument(help="The event's id (evt_…).")]


def _ways(event: EventInfo) -> str:
    return ", ".join(f"{one.target}: {_way(one)}" for one in event.deliveries) or "nobody is told of it"


def _way(one: DeliveryInfo) -> str:
    tries = f" after {one.tries} tries" if one.tries > 1 else ""
    wrong = f" ({one.log[-1].error})" if one.log and one.log[-1].error else ""
    return f"{one.state}{tries}{wrong}"


COLUMNS: list[tuple[str, str | Callable[[Any], object]]] = [
    ("event", "id"),
    ("at", "at"),
    ("kind", "kind"),
    ("about", "subject"),
    ("message", "message"),
    ("deliveries", _ways),
]


@app.command("list")
def list_(
    context: typer.Context,
    since: SinceOption = "",
    kind: Annotated[str, typer.Option("--kind", help="Only this kind, such as rollout.halted.")] = "",
    state: Annotated[
        str, typer.Option("--state", help="Only with a delivery that is waiting, delivered or dead.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many events.")] = 100,
    json: JsonFlag = False,
) -> None:
    """List events, newest first, with what became of each delivery.

    Example: fleet event list --since 7d --state dead
    """
    session = session_of(context)
    found = session.client.events(limit=limit, since=session.since(since), kind=kind, state=state)
    print_items(list(found), COLUMNS, json=json, empty="no events")


@app.command("show")
def show(context: typer.Context, event: EventArgument, json: JsonFlag = False) -> None:
    """Show one event with every try of its deliveries.

    Example: fleet event show evt_0f3c2a
    """
    _show(client_of(context).event(event), json=json)


@app.command("targets")
def targets(context: typer.Context, json: JsonFlag = False) -> None:
    """List the targets of the hub's configuration (role admin).

    Example: fleet event targets
    """
    columns: list[tuple[str, str | Callable[[Any], object]]] = [
        (name, name) for name in ("name", "format", "host", "kinds", "waiting", "delivered", "dead")
    ]
    print_items(client_of(context).event_targets(), columns, json=json, empty="hub.toml has no targets")


@app.command("test")
def test(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="The target's name in hub.toml.")],
    timeout: TimeoutOption = 60.0,
    json: JsonFlag = False,
) -> None:
    """Send a test to a target and wait for what comes of it; exit code 1 when it fails, 8 when nothing came in time.

    Example: fleet event test ops
    """
    session = session_of(context)
    sent = session.client.test_event_target(target)
    _follow(context, sent.id, target, timeout, json=json)


@app.command("resend")
def resend(
    context: typer.Context,
    event: EventArgument,
    target: Annotated[str, typer.Option("--target", help="To this target, whatever became of it.")] = "",
    json: JsonFlag = False,
) -> None:
    """Try the dead deliveries of an event anew.

    Example: fleet event resend evt_0f3c2a
    """
    _show(client_of(context).resend_event(event, target), json=json)


class _Way:
    """An event's way to one target, as `Session.follow` follows it: it ends with the first try."""

    def __init__(self, event: EventInfo, target: str) -> None:
        self.event = event
        self.one = next((one for one in event.deliveries if one.target == target), None)
        tried = self.one is not None and bool(self.one.log)
        self.state = "tried" if tried else "waiting"


def _follow(context: typer.Context, event: str, target: str, timeout_s: float, *, json: bool) -> None:
    session = session_of(context)
    found = session.follow(
        lambda: _Way(session.client.event(event), target),
        ended=("tried",),
        show=lambda way: None,
        timeout_s=timeout_s,
        subject=f"the test of {target}",
    )
    _show(found.event, json=json)
    if found.one is not None and found.one.state != "delivered":
        raise FailedError(
            f"the test did not reach {target}: {found.one.log[-1].error}",
            subject=target,
            hint="correct the target in hub.toml, and start the hub again",
        )


def _show(event: EventInfo, *, json: bool) -> None:
    print_document(event, COLUMNS, json=json)
    if not json:
        for one in event.deliveries:
            for tried in one.log:
                came = f"{tried.status} {tried.error}".strip() if tried.status else tried.error or "acknowledged"
                print_note(f"{one.target}: {came}")
