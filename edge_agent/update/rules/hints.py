"""Advice, in words, about metadata that does not come or cannot be used. No I/O."""

from __future__ import annotations

import re
import time
from pathlib import Path

from edge_agent.errors import AgentError, FetchError, UnreachableError

_RENEW = "`cloud-hub keys renew DIR --offline-keys DIR2`"
_SERVE = "`cloud-hub serve DIR`, which signs daily"
_MODELS = (
    f"`cloud-hub serve DIR` if it holds the release key, {_RENEW} if that key lies in DIR2; else publish a release"
    " with it: `fleet release publish --key KEY`"
)
USED_TWICE = (
    "the hub sees two machines connect as this device, as after a card was copied: keep the identity on one, and enrol"
    " the other anew: stop its agent, empty its directory, `edge-agent enroll URL --token TOKEN --dir DIR`"
)
_ON_THE_HUB = {"root": _RENEW, "targets": _RENEW, "models": _MODELS}  # signed by hand, or where the hub lacks the key
_BUSY = (408, 425, 429)  # HTTP: ask again later
_ROLE = re.compile(r"(?:New |Final )?(\S+?)(?:\.json)? is expired")  # python-tuf's words


def expired(error: str, now: float, remedy: str = "") -> str:
    """Advise an operator about a role that has expired, by what python-tuf says of it; `remedy` takes its place.

    Args:
        error: python-tuf's words.
        now: Unix seconds by this device's clock.
        remedy: told in place of the advice by role.
    """
    named = _ROLE.search(error)
    remedy = remedy or f"run on the hub: {_ON_THE_HUB.get(named[1] if named else '', _SERVE)}"
    return f"{error}; this device's clock says {date(now)} UTC: if that is right, {remedy}"


def clock_behind(now: float, floor: float) -> str:
    """Advise about a clock that shows a moment before one that has passed."""
    return f"the clock says {date(now)}, but {date(floor)} has passed already: set this device's clock"


def answered(status: int, said: str, subject: str) -> AgentError:
    """Return the error for an HTTP answer that is not the file which was asked for.

    Args:
        status: of HTTP.
        said: the message of the error.
        subject: the file that was asked for.
    """
    if status in _BUSY or status >= 500:
        hint = "the hub, or a proxy before it, is busy or down; the device asks again by itself"
        return UnreachableError(said, subject=subject, hint=hint)
    if 300 <= status < 400:
        return FetchError(said, subject=subject, hint="no redirect is followed; does the network ask for a login?")
    if status in (404, 410):
        hint = "is this a hub or a bundle, and is it whole? one that is still copied or restored lacks files"
        return FetchError(said, subject=subject, reason="not-found", hint=hint)
    return FetchError(said, subject=subject, hint="is this the hub's address, and was the device revoked there?")


def floor_ahead(now: float, floor: float, path: Path) -> str:
    """Advise where the hub's metadata bears the clock out, and not the moment that has passed.

    Either may be wrong: the metadata is an old copy and the clock was set back to it; or the moment comes from a clock
    that ran ahead while a stolen key, or a hub whose own clock did, signed. Only a person can tell.

    Args:
        now: Unix seconds by this device's clock.
        floor: Unix seconds, the latest moment that has passed for certain.
        path: of the file that keeps the floor.
    """
    return (
        f"the clock says {date(now)}, and the hub's metadata was signed about then; but {path} says that {date(floor)}"
        f" has passed already: if the clock is right, remove {path}; if not, set this device's clock"
    )


def date(moment: float) -> str:
    """A Unix time for people, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))
