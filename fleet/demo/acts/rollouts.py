"""Acts 6 and 7: a good release is promoted by its guard, a bad one is halted by it."""

from __future__ import annotations

from typing import Any

from fleet.demo.processes import DemoError
from fleet.demo.story import Story
from fleet.demo.workshop import CHANNEL, DEVICES, MODEL, Workshop

STAGES = "34,100"  # one of three devices, then all
# The demo's traffic has about 350 different images, and each counts once: too few to show a loss below 5 points.
GUARD = '{"min_pairs": 20, "margin": 0.1, "evidence_deadline_s": 60}'
TIMEOUT_S = 90.0
HALTED = 7  # exit code of `fleet rollout watch`


def create(shop: Workshop, release: int) -> str:
    """Start a rollout of `release`; returns its id."""
    created = shop.fleet(
        "rollout", "create", MODEL, release, "--channel", CHANNEL, "--stages", STAGES, "--guard", GUARD
    )
    return str(created["id"])


def follow(story: Story, rollout: str, release: int, *, expected: str) -> dict[str, Any]:
    """Watch a rollout with the public command; its exit code must fit what we expect."""
    shop, began = story.shop, story.shop.seconds
    code = 0 if expected == "finished" else HALTED
    shop.command(
        "fleet.cli.main",
        "rollout",
        "watch",
        rollout,
        "--timeout",
        TIMEOUT_S,
        "--json",
        timeout_s=TIMEOUT_S + 20,
        expect=code,
    )
    found = shop.client.rollout(rollout)
    outcome = {
        "release": release,
        "outcome": found.state,
        "reason": found.reason,
        "exposed_devices": found.exposed_devices,
        "seconds": round(shop.seconds - began, 1),
    }
    story.report["rollouts"].append(outcome)
    shop.say(f"release {release}: {outcome['outcome']} after {outcome['seconds']:.0f} s: {outcome['reason']}")
    if found.state != expected:
        raise DemoError(f"the rollout of release {release} is {found.state}, it should be {expected}")
    return outcome


def wait_back_on(shop: Workshop, release: int) -> None:
    """After a halt: every device serves `release`, wherever it was."""

    def back() -> bool:
        return all(shop.serves(device, release) for device in DEVICES)

    seconds = shop.wait(f"every device is back on release {release}", back, timeout_s=40)
    shop.say(f"every device serves release {release} again after {seconds:.1f} s")
