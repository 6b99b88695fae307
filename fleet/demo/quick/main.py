"""The quick demo from top to bottom: publish, serve, fall back, roll out, take the hub away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from fleet.demo.acts import opening
from fleet.demo.driver import Application, DemoTraffic, Digits, Tally, predicted
from fleet.demo.main import stay
from fleet.demo.processes import DemoError
from fleet.demo.quick.shop import Commands, QuickShop
from fleet.demo.workshop import CHANNEL, MODEL, agent_ports
from fleet.errors import FleetError

DATA = Path(__file__).with_name("data")
INPUT = "x"
RATE_HZ = 10.0  # requests per second and device
PATIENCE_S = 120.0  # on a machine that does much else
ALONE = 40  # requests while the hub is away
NEXT = """
what to try next
  fleet demo --quick --keep    the same, and everything stays: look at the dashboard
  make demo                    train, compile, drift, retrain, kills; needs a checkout and minutes
  docs/tutorial.md             a model of your own, by hand: what these commands did, one after the other
"""


def run_quick(commands: Commands, *, keep: bool, directory: Path) -> int:
    """Play it; returns the exit code, 0 when everything happened as it should.

    Args:
        commands: the `fleet` command.
        keep: leave all of it running until Ctrl-C.
        directory: where it all goes; emptied first.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        shop = QuickShop(directory, console, commands)
    except DemoError as error:
        console.print(f"[red]error:[/red] {error}")
        return 1
    traffic = DemoTraffic(agent_ports(shop), MODEL, INPUT, digits(), rate_hz=RATE_HZ, seed=0)
    try:
        _play(shop, traffic, keep=keep)
    except (DemoError, FleetError) as error:
        console.print(f"[red]the demo failed:[/red] {error}\nlogs: {shop.logs}")
        return 1
    finally:
        traffic.stop()
        shop.stop_all()
    return 0


def digits() -> Digits:
    """The digits that come along: float32 (120, 64) in [0, 1] and their labels."""
    with np.load(DATA / "digits.npz", allow_pickle=False) as arrays:
        return Digits(x=arrays["x"].astype(np.float32) / 16, y=arrays["y"].astype(np.int64))


def _play(shop: QuickShop, traffic: DemoTraffic, *, keep: bool) -> None:
    shop.act("1  A hub, and release 1 of a small model, signed with keys made just now")
    opening.open_hub(shop)
    shop.fleet("model", "create", MODEL)
    first = opening.publish(shop, DATA / "first", "a linear model")
    probation = ("--probation-requests", 10, "--probation", "1s", "--window-requests", 30, "--window", "2s")
    shop.fleet("channel", "set", CHANNEL, "--model", MODEL, "--release", first, *probation)

    shop.act("2  Two devices enrol, fetch, verify, try and serve it")
    opening.enrol_devices(shop)
    answers = "release 1 answers on both"
    shop.wait(answers, lambda: _serving(shop, first) == len(shop.devices), timeout_s=PATIENCE_S)
    traffic.start()  # a release is committed after good answers to real requests
    shop.wait_installed(first, timeout_s=PATIENCE_S)
    _ask_all(shop, "release 1")

    shop.act("3  Release 2, rolled out in two stages: one device, then both")
    _roll_out(shop)
    _ask_all(shop, "release 2")
    if keep:
        stay(shop)
        return

    shop.act("4  The hub goes away")
    shop.processes["hub"].stop()
    _ask_alone(shop)
    traffic.stop()
    _end(shop, traffic)


def _roll_out(shop: QuickShop) -> None:
    second = opening.publish(shop, DATA / "second", "with a hidden layer")
    plan = ("--stages", "50,100", "--evidence", "install", "--soak", "1s")
    rollout = str(shop.fleet("rollout", "create", MODEL, second, "--channel", CHANNEL, *plan)["id"])
    shop.wait("one device serves release 2", lambda: _serving(shop, second) == 1, timeout_s=PATIENCE_S, every_s=0.05)
    shop.say("stage 1: one device serves release 2, the other still release 1")
    shop.wait("the rollout ends", lambda: shop.client.rollout(rollout).ended_at is not None, timeout_s=PATIENCE_S)
    found = shop.client.rollout(rollout)
    if found.state != "finished":
        raise DemoError(f"the rollout is {found.state}, it should have finished: {found.reason}")
    shop.wait_installed(second, timeout_s=PATIENCE_S)
    shop.say("stage 2: both; by install health alone here, where a fleet compares the answers of both releases")


def _serving(shop: QuickShop, release: int) -> int:
    return sum(shop.active(device) == release for device in shop.devices)


def _ask_all(shop: QuickShop, what: str) -> None:
    """Every digit once, as applications ask."""
    tally, right = _ask(shop, digits())
    edge, cloud = tally.served_by["edge"], tally.served_by["cloud"]
    if not edge or not cloud:
        raise DemoError(f"answers should come from edge and cloud, they came from {dict(tally.served_by)}")
    shop.say(f"{what}: {right} of {tally.total} digits right; {edge} were answered on the device")
    shop.say(f"and {cloud}, of which it was unsure, by the cloud's larger model")


def _ask_alone(shop: QuickShop) -> None:
    known = digits()
    tally, right = _ask(shop, Digits(known.x[:ALONE], known.y[:ALONE]))
    if tally.served_by["edge"] != ALONE:
        raise DemoError(f"every answer should come from the device, they came from {dict(tally.served_by)}")
    shop.say(f"{right} of {ALONE} digits right, none failed; {tally.degraded} that the cloud would have answered were")
    shop.say("answered on the device, marked as degraded")


def _ask(shop: QuickShop, asked: Digits) -> tuple[Tally, int]:
    """Ask the devices by turns; what came back, and how many answers are right. Raises DemoError when one failed."""
    applications = [Application(port, MODEL, INPUT) for port in agent_ports(shop)]
    whole, right = Tally(), 0
    for number, (image, label) in enumerate(zip(asked.x, asked.y, strict=True)):
        answer = applications[number % len(applications)].ask(image)
        right += answer is not None and predicted(answer) == int(label)
    for one in (application.tally for application in applications):
        whole.total, whole.failed = whole.total + one.total, whole.failed + one.failed
        whole.degraded += one.degraded
        whole.served_by += one.served_by
        whole.problems += one.problems
    if whole.failed:
        raise DemoError(f"{whole.failed} requests failed: {dict(whole.problems)}")
    return whole, right


def _end(shop: QuickShop, traffic: DemoTraffic) -> None:
    if traffic.failed:
        raise DemoError(f"{traffic.failed} of {traffic.total} requests beside it failed")
    shop.say(f"meanwhile two applications made {traffic.total} requests, of which none failed")
    shop.console.print(f"\neverything happened as it should, in {shop.seconds:.0f} s; logs: {shop.logs}")
    shop.console.print(NEXT, markup=False)
