"""`fleet device diagnose|logs|bench`: what a device does when it is told to, and its answer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fleet.cli.commanding import ask_device, refuse_absent
from fleet.cli.output import JsonLines, harmless, local_time, print_items, print_json, print_note
from fleet.cli.session import JsonFlag, Session, SinceOption, TimeoutOption, session_of

if TYPE_CHECKING:
    from fleet.api.diagnosis import Finding

Line = Mapping[str, Any]

DeviceArgument = Annotated[str, typer.Argument(help="The device's id.")]
FOLLOW_S, OVERLAP_S = 5.0, 30.0  # between two questions; how much of what is known each asks for again
MOST_LINES = 1000
FINDINGS = 50  # that are shown; --json has all
FIGURES = [
    ("model", "model"),
    ("release", "release"),
    ("variant", "variant"),
    ("runtime", "runtime"),
    ("p50 µs", "p50_us"),
    ("p95 µs", "p95_us"),
    ("load µs", "load_us"),
    ("memory bytes", "memory_bytes"),
    ("rounds", "rounds"),
]


def diagnose(
    context: typer.Context, device: DeviceArgument, timeout: TimeoutOption = 60.0, json: JsonFlag = False
) -> None:
    """Ask a device how it stands, and say what is ill, why, and what to do.

    A device that is offline is not asked: what its hub knows is said, and the exit code is 6; it is 8 when no answer
    comes in time.

    Example: fleet device diagnose kiosk-7
    """
    from fleet.api import diagnosis
    from fleet.api.vitals import vitals_in_words
    from fleet.errors import FleetError

    session = session_of(context)
    known = session.client.device(device)
    said: Mapping[str, Any] = {}
    failure: FleetError | None = None
    try:
        refuse_absent(known)
        said = ask_device(session, device, "diagnose", {}, timeout_s=timeout).data
    except FleetError as error:
        failure = error
    found = diagnosis.findings(known, said, session.now())
    if json:
        ill = [finding._asdict() for finding in found]
        print_json({"device": device, "answered": failure is None, "ill": ill, "answer": said})
    else:
        _tell(device, found, diagnosis.untold(said), answered=failure is None)
        if told := vitals_in_words(known.vitals):
            assert known.vitals is not None
            words = ", ".join(f"{name} {value}" for name, value in told.items())
            sys.stdout.write(f"its machine, as told at {local_time(known.vitals.at)}: {words}\n")
    if failure is not None:
        raise failure


def _tell(device: str, found: Sequence[Finding], untold: Sequence[str], *, answered: bool) -> None:
    whose = f"{device} has answered" if answered else f"of {device} its hub knows"
    count = f"{len(found)} thing{'s' * (len(found) != 1)} to look at" if found else "nothing ill"
    lines = [f"{whose}: {count}"]
    for number, finding in enumerate(found[:FINDINGS], 1):
        lines.append(f"{number}. {finding.what}")
        lines += [f"   {finding.why}"] * bool(finding.why) + [f"   try: {finding.todo}"] * bool(finding.todo)
    if len(found) > FINDINGS:
        lines.append(f"and {len(found) - FINDINGS} more: --json has all of them")
    if untold:
        more = f" and {len(untold) - 5} more" if len(untold) > 5 else ""
        lines.append(
            f"no request has come since its agent began, so nothing is known of: {', '.join(untold[:5])}{more}"
        )
    sys.stdout.write("".join(harmless(line) + "\n" for line in lines))


def logs(
    context: typer.Context,
    device: DeviceArgument,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=MOST_LINES, help="At most this many, the newest.")
    ] = 100,
    since: SinceOption = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then ask every 5 s for what is new, until Ctrl-C.")
    ] = False,
    timeout: TimeoutOption = 60.0,
    json: JsonFlag = False,
) -> None:
    """Show the latest log lines of a device's agent, oldest first, with the device's own times.

    The agent keeps about a thousand lines since it started, with credentials hidden; an answer holds some 40 KiB.
    With --follow each question is a command of its own; a device that is away or does not answer is asked again. With
    --json it prints each line as JSON then.

    Example: fleet device logs kiosk-7 --since 15m --follow
    """
    session = session_of(context)
    wanted: dict[str, Any] = {"lines": lines}
    if since:
        wanted["seconds"] = session.ago(since)
    begun = session.monotonic()
    data = ask_device(session, device, "logs", wanted, timeout_s=timeout).data
    told = _told(data)
    if follow:
        tell: Callable[[Line], object] = JsonLines() if json else _tell_line
        for line in told:
            tell(line)
        _follow(session, device, told, begun, tell, timeout)
    if json:
        print_json({**data, "device": device})
        return
    left_out = data.get("left_out")
    sys.stdout.write("".join(line_of(line) for line in told))
    if not told:
        print_note("no line of that time is kept")
    elif isinstance(left_out, int) and left_out > 0:
        print_note(f"{left_out} older lines are kept there; with a larger --lines more of them fit")


def _told(data: Mapping[str, Any]) -> list[Line]:
    found = data.get("lines")
    return [line for line in found if isinstance(line, dict)] if isinstance(found, list) else []


def _tell_line(line: Line) -> None:
    sys.stdout.write(line_of(line))
    sys.stdout.flush()


def _follow(
    session: Session, device: str, known: Sequence[Line], asked: float, tell: Callable[[Line], object], timeout_s: float
) -> NoReturn:
    """Ask again and again, and tell what is new; a device that is away is said once, until it is back.

    Raises ConflictError (it was revoked), FailedError (it refuses): asking again would not help.
    """
    from fleet.errors import TimedOutError, UnreachableError

    away = ""
    while True:
        session.sleep(FOLLOW_S)
        begun = session.monotonic()
        wanted = {"lines": MOST_LINES, "seconds": begun - asked + OVERLAP_S}
        try:
            found = _told(ask_device(session, device, "logs", wanted, timeout_s=timeout_s).data)
        except (TimedOutError, UnreachableError) as error:
            if not away:
                print_note(f"{error}; it is asked again")
            away = str(error)
            continue
        away, asked = "", begun
        for line in beyond(known, found):
            tell(line)
        known = found or known


def beyond(known: Sequence[Line], found: Sequence[Line]) -> Sequence[Line]:
    """Return the lines of `found` after the last line of `known`, both oldest first.

    They begin after the last place where the lines before agree as well, as far as both go back. Without such a place
    all of `found` is new.
    """
    for at in range(len(found) - 1, -1, -1):
        back = min(at + 1, len(known))
        if back and list(found[at + 1 - back : at + 1]) == list(known[len(known) - back :]):
            return found[at + 1 :]
    return found


def line_of(line: Mapping[str, Any]) -> str:
    """A record; what follows its first line, such as a trace, is indented, so that nothing in it looks like another."""
    at = line.get("at")
    when = local_time(at) if isinstance(at, int | float) else "–"
    first, *rest = str(line.get("text", "")).split("\n")
    head = f"{when} {line.get('level', '')} {line.get('name', '')}: {first}"
    return "".join(harmless(part) + "\n" for part in (head, *(f"    {part}" for part in rest)))


def bench(
    context: typer.Context,
    device: DeviceArgument,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Only this model; each one that is active if not given.")
    ] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100_000, help="Calls that are timed.")] = 200,
    timeout: TimeoutOption = 330.0,
    json: JsonFlag = False,
) -> None:
    """Let a device measure the release it serves, and show the figures; fleet release show has those of all devices.

    It measures in a process of its own, beside the requests that it serves, for 5 minutes at most.

    Example: fleet device bench kiosk-7 --model digits
    """
    from fleet.errors import FleetError, NotFoundError

    session = session_of(context)
    known = session.client.device(device)
    refuse_absent(known)
    wanted = [model] if model else [one.model for one in known.models if one.active is not None]
    if not wanted:
        raise NotFoundError(f"device {device!r} serves no release yet", hint=f"fleet device diagnose {device}")
    figures: list[Mapping[str, Any]] = []
    failure: FleetError | None = None
    for name in wanted:
        try:
            answer = ask_device(session, device, "benchmark", {"model": name, "rounds": rounds}, timeout_s=timeout)
            figures.append(answer.data)
        except FleetError as error:  # one model's trouble takes no other along
            if failure is not None or len(wanted) > 1:
                print_note(f"{name}: {error}")
            failure = failure or error
    print_items(figures, FIGURES, json=json, empty="nothing was measured")
    if failure is not None:
        raise failure
