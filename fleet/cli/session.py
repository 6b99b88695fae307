"""The session that every command is given: the client, the clock, and the form of its output."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from fleet.errors import TimedOutError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from fleet.cli.config import HubLogin
    from fleet.client import Client, Transport


class HasState(Protocol):
    """Anything that can be followed until it ends."""

    @property
    def state(self) -> str:
        """Its present state, in a word."""
        ...


Followed = TypeVar("Followed", bound=HasState)
Body = TypeVar("Body", bound="BaseModel")


def _check_timeout(seconds: float) -> float:
    if not 0 <= seconds < math.inf:  # false for NaN, too: nothing is ever later than that
        raise typer.BadParameter(f"{seconds} is not a number of seconds")
    return seconds


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Name of the model.")]
SinceOption = Annotated[
    str,
    typer.Option("--since", help="Only of the last time (90s, 15m, 12h, 30d) or from a time on (2026-11-30, in UTC)."),
]

TimeoutOption = Annotated[
    float, typer.Option("--timeout", callback=_check_timeout, help="Give up after this many seconds (exit code 8).")
]


class Session:
    """One run of the command. Everything outside comes in here, so that tests bring their own."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        connect: Callable[[HubLogin], Transport] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.environment = environment
        self.sleep = sleep
        self.monotonic = monotonic
        self.now = now or time.time
        self._connect = connect or connect_http

    def since(self, text: str) -> float:
        """The moment so long ago (`12h`), or the one said, in Unix seconds; 0 for an empty text."""
        return parse_moment(text, self.now()) if text else 0.0

    def ago(self, text: str) -> float:
        """Return how many seconds ago a moment was; a usage error for a moment in the future."""
        now = self.now()
        seconds = round(now - parse_moment(text, now), 3)
        if seconds <= 0:
            raise typer.BadParameter(f"{text!r} has not been yet")
        return seconds

    def open(self, login: HubLogin) -> Client:
        """A client with this login."""
        from fleet.client import Client

        return Client(self._connect(login), login.token)

    @cached_property
    def client(self) -> Client:
        """The client of the hub that the operator is logged in to."""
        from fleet.cli.config import load_login

        return self.open(load_login(self.environment))

    def follow(
        self,
        look: Callable[[], Followed],
        *,
        ended: Collection[str],
        show: Callable[[Followed], None],
        timeout_s: float,
        every_s: float = 1.0,
        subject: str = "",
    ) -> Followed:
        """Look until the state is one of `ended`, showing each document.

        Raises:
            TimedOutError: not within `timeout_s`.
        """
        deadline = self.monotonic() + timeout_s
        while True:
            document = look()
            show(document)
            if document.state in ended:
                return document
            if self.monotonic() + every_s > deadline:
                raise TimedOutError(
                    f"{subject} has not ended after {timeout_s:g} s (state {document.state!r})",
                    subject=subject,
                    hint="it goes on by itself; watch it again with a larger --timeout",
                )
            self.sleep(every_s)


def connect_http(login: HubLogin) -> Transport:
    """The real transport."""
    from fleet.client import HttpTransport

    return HttpTransport(login.url, ca=Path(login.ca) if login.ca else None)


def session_of(context: typer.Context) -> Session:
    """The session that `main` put into the context."""
    session = context.find_root().obj
    assert isinstance(session, Session)
    return session


def client_of(context: typer.Context) -> Client:
    """Shorthand for `session_of(context).client`."""
    return session_of(context).client


def body_of(model: type[Body], /, **fields: object) -> Body:
    """A request body or query with the fields that are not None; a usage error names the one that is out of bounds."""
    from pydantic import ValidationError

    try:
        return model(**{key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise typer.BadParameter(f"{where}: {first['msg']}") from None


def parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """`["site=berlin"]` → `{"site": "berlin"}`; a usage error otherwise."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not key=value")
        found[key] = value
    return found


def parse_moment(text: str, now: float) -> float:
    """`12h` (so long before `now`), or a day or time of ISO 8601, of UTC where it names no offset → Unix seconds.

    Raises:
        typer.BadParameter: it is neither, or before 1970 or after the year 9999.
    """
    from datetime import UTC, datetime

    from fleet.api.types import LATEST_S

    if "-" not in text[1:]:
        return max(now - parse_seconds(text), 0.0)
    try:
        given = datetime.fromisoformat(text)
        seconds = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time; for example 12h, 2026-11-30, 2026-11-30T14:00, 2026-11-30T14:00+01:00"
        ) from None
    if not 0 <= seconds <= LATEST_S:
        raise typer.BadParameter(f"{text!r} is no time between 1970 and 9999")
    return seconds


def parse_seconds(text: str) -> float:
    """`90`, `90s`, `15m`, `12h`, `30d` → seconds; a usage error otherwise."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    number = text[:-1] if unit else text
    try:
        seconds = float(number) * (unit or 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a duration; for example 90s, 15m, 12h, 30d") from None
    if not 0 < seconds < math.inf:
        raise typer.BadParameter("a duration is positive, and ends")
    return seconds
