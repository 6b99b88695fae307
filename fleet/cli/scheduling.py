"""The schedule options of `fleet rollout plan` and `create`: moments, a window, a zone and a rate."""

from __future__ import annotations

import typer


def schedule_of(
    start_at: str, expires_at: str, window: str, time_zone: str, rate: str, *, usual: bool = True
) -> dict[str, object] | None:
    """A schedule as the API takes it, None when nothing was asked for; a usage error for what cannot be read."""
    if window and not time_zone:
        raise typer.BadParameter("--window needs --time-zone, such as Europe/Berlin or UTC")
    asked: dict[str, object] = {} if usual else {"usual": False}  # which an older hub does not know
    if start_at:
        asked["start_at"] = moment_of(start_at, time_zone, "--start-at")
    if expires_at:
        asked["expires_at"] = moment_of(expires_at, time_zone, "--expires-at")
    if window:
        asked["window"] = window
    if rate:
        asked["rate"] = rate_of(rate)
    if not asked:
        return None
    return asked | ({"time_zone": time_zone} if time_zone else {})


def moment_of(text: str, time_zone: str, option: str) -> float:
    """Unix seconds of an ISO 8601 time with an offset, or in a zone; a usage error for one that is neither, and for one
    that the zone's clocks skip."""
    from datetime import datetime

    from fleet.rollouts.calendar import zone_of
    from fleet.rollouts.errors import PlanError

    try:
        given = datetime.fromisoformat(text)
        if given.tzinfo is not None:
            return given.timestamp()
        if not time_zone:
            raise typer.BadParameter(f"{option} {text} needs --time-zone, or an offset as in 2026-12-01T22:00+01:00")
        local = given.replace(tzinfo=zone_of(time_zone))
        seconds = local.timestamp()
        if datetime.fromtimestamp(seconds, local.tzinfo).replace(tzinfo=None) != given:
            raise typer.BadParameter(f"{option}: clocks of {time_zone} skip {text}")
    except PlanError as error:
        raise typer.BadParameter(f"{error}; {error.hint}") from None
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{option}: {text!r} is no time; for example 2026-12-01T22:00") from None
    return seconds


def rate_of(text: str) -> dict[str, object]:
    """`10`, or `10:1.5:100:500` (devices per minute, factor, after how many successes, at most)."""
    parts = text.split(":")
    form = f"--rate: {text!r} is no rate; for example 10, or 10:1.5:100:500"
    try:
        per_minute, *growth = [float(part) for part in parts]
        after = int(parts[2]) if len(parts) > 2 else 1
    except ValueError:
        raise typer.BadParameter(form) from None
    if not growth:
        return {"per_minute": per_minute}
    if len(growth) != 3:
        raise typer.BadParameter(form)
    return {"per_minute": per_minute, "factor": growth[0], "after": after, "most": growth[2]}
