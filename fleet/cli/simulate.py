"""`fleet simulate`: as many simulated devices as wanted, on real connections to the hub."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import Column, print_document, print_note
from fleet.cli.session import JsonFlag, client_of, parse_seconds, session_of
from fleet.errors import FailedError, UsageError

if TYPE_CHECKING:
    from fleet.client import Client
    from fleet.simulator.run import Report
    from fleet.simulator.work import Member

MOST = 100_000
SAID_EVERY_S = 10.0  # where no terminal shows a line that changes
TOKEN_S = 86_400.0
TROUBLES = 8  # kinds that are shown; the JSON document has all
COLUMNS: list[Column] = [
    ("devices", "devices"),
    ("enrolled", "enrolled"),
    ("online at the end", "online"),
    ("seconds", "seconds"),
    ("records", "records"),
    ("receipts", "receipted"),
    ("receipts per second", "receipted_per_s"),
    ("record to receipt, p50", lambda report: f"{report.delay_s['p50']:.3f} s"),
    ("record to receipt, p99", lambda report: f"{report.delay_s['p99']:.3f} s"),
    ("record to receipt, longest", lambda report: f"{report.delay_s['max']:.3f} s"),
    ("without a receipt", "waiting"),
    ("given up", "lost"),
    ("hostile messages", "hostile"),
    ("refused commands", "refused"),
    ("serving", lambda report: ", ".join(f"{name} × {n}" for name, n in sorted(report.releases.items())) or "–"),
    ("memory of the simulation", lambda report: f"{report.memory_bytes / 2**20:.0f} MiB"),
]


def simulate(
    context: typer.Context,
    devices: Annotated[int, typer.Argument(metavar="N", help="How many devices.", min=1, max=MOST)],
    channel: Annotated[str, typer.Option("--channel", help="The channel that they follow.")] = "stable",
    hub: Annotated[str, typer.Option("--hub", help="The hub's address for devices; by default the login's.")] = "",
    profile: Annotated[
        list[str] | None,
        typer.Option("--profile", help="NAME=SHARE, such as wrong=10%; repeatable, the rest is healthy."),
    ] = None,
    shadow_share: Annotated[
        float, typer.Option("--shadow-share", min=0, max=100, help="Per cent of the devices whose agents can shadow.")
    ] = 100.0,
    duration: Annotated[str, typer.Option("--for", help="How long, such as 90s or 2h, once they are enrolled.")] = "5m",
    drain: Annotated[
        str, typer.Option("--drain", help="Then as long at most for what is under way, without new windows.")
    ] = "60s",
    seed: Annotated[int, typer.Option("--seed", help="Draws who is what, and what each does.")] = 0,
    processes: Annotated[int, typer.Option("--processes", help="Processes to share the devices.", min=1, max=64)] = 2,
    name: Annotated[str, typer.Option("--name", help="Their names begin with this.")] = "sim",
    directory: Annotated[
        Path, typer.Option("--dir", help="Keeps their identities; who is enrolled is not enrolled again.")
    ] = Path(".simulated"),
    json: JsonFlag = False,
) -> None:
    """Simulate devices: real keys, TLS, MQTT and update rules; downloads and inference are modelled by profiles.

    The hub takes them for real devices, so use one that is there for trying. Profiles: healthy, busy, wrong, failing,
    slow, crash-loop, drifting, offline, silent, slow-link, wrong-clock, duplicating, hostile, flooding.

    Example: fleet simulate 1000 --channel stable --profile wrong=10% --profile offline=5% --for 10m
    """
    from msgspec.structs import replace

    from fleet.cli.config import load_login
    from fleet.simulator.errors import EndedError, ProfileError
    from fleet.simulator.profiles import assign, draw, parse_mix
    from fleet.simulator.run import Simulation, SimulationPlan

    seconds, drain_s = parse_seconds(duration), parse_seconds(drain)
    try:
        kinds = assign(parse_mix(profile or []), devices, seed)
    except ProfileError as error:
        raise UsageError(str(error), subject=error.subject, hint=error.hint) from error
    client = client_of(context)
    address = hub or load_login(session_of(context).environment).url
    shadows = draw(shadow_share / 100, devices, seed, "shadows")
    members = [
        replace(member, shadows=can)
        for member, can in zip(_members(client, channel, name, kinds, directory), shadows, strict=True)
    ]
    plan = SimulationPlan(
        hub=address,
        channel=channel,
        directory=str(directory),
        seed=seed,
        seconds=seconds,
        drain_s=drain_s,
        processes=min(processes, devices),
        members=tuple(members),
    )
    simulation = Simulation(plan, _Line(seconds).show)
    before = signal.signal(signal.SIGINT, lambda _number, _frame: simulation.stop())
    try:
        report = simulation.run()
    except EndedError as error:
        raise FailedError(str(error), subject=error.subject, hint=error.hint) from error
    finally:
        signal.signal(signal.SIGINT, before)
    _print(report, json=json)
    if not report.enrolled:
        raise FailedError("no device could be enrolled", subject=channel, hint="what went wrong is listed above")


def _members(client: Client, channel: str, name: str, kinds: list[str], directory: Path) -> list[Member]:
    """The devices, each that is not enrolled yet with a claim token of its own."""
    from fleet.api.tokens import NewToken
    from fleet.simulator.run import prepared
    from fleet.simulator.work import Member

    names = [f"{name}-{number:05}" for number in range(len(kinds))]
    there = prepared(directory, names)
    if len(there) < len(names):
        print_note(f"{len(names) - len(there)} claim tokens are made; the devices' identities go to {directory}")
    found = []
    for device, kind in zip(names, kinds, strict=True):
        text = ""
        if device not in there:
            wanted = NewToken(
                kind="claim", channel=channel, labels={"simulated": kind}, note="simulated", expires_in_s=TOKEN_S
            )
            text = client.create_token(wanted).token
        found.append(Member(name=device, profile=kind, token=text))
    return found


class _Line:
    """One line that changes on a terminal; else one now and then."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._said = seconds, 0.0

    def show(self, report: Report) -> None:
        """Say where it stands."""
        text = (
            f"{report.seconds:5.0f} s  enrolled {report.enrolled}/{report.devices}  online {report.online}  "
            f"receipts {report.receipted}/{report.records}  p95 {report.delay_s['p95']:.2f} s  "
            f"troubles {sum(report.troubles.values())}"
        )
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        elif time.monotonic() - self._said >= SAID_EVERY_S:
            self._said = time.monotonic()
            print_note(text)


def _print(report: Report, *, json: bool) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    print_document(report, COLUMNS, json=json)
    if report.troubles and not json:
        print_note("what went wrong:")
        worst = sorted(report.troubles.items(), key=lambda item: -item[1])
        for text, count in worst[:TROUBLES]:
            print_note(f"  {count:6} × {text}")
        if len(worst) > TROUBLES:
            print_note(f"  and {len(worst) - TROUBLES} other kinds; --json has all of them")
