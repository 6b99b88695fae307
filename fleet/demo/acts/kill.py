"""SIGKILL in the middle of a fetch and of a trial, and a hub that goes away. No request fails."""

from __future__ import annotations

from fleet.demo.acts.opening import wait_for_hub
from fleet.demo.story import Story
from fleet.demo.workshop import CHANNEL, DEVICES, Workshop

FETCH_SECONDS = 4
HUB_AWAY_REQUESTS = 200
FOUND_S = 60.0


def slow_down(shop: Workshop, size: int) -> None:
    """Limit the devices' bandwidth, so that fetching `size` bytes takes seconds."""
    shop.fleet("channel", "set", CHANNEL, "--max-rate", max(1000, size // FETCH_SECONDS))


def speed_up(shop: Workshop) -> None:
    """Lift the limit."""
    shop.fleet("channel", "set", CHANNEL, "--max-rate", 0)


def kill_one(story: Story, state: str, spared: tuple[str, ...] = ()) -> str:
    """Kill the first device whose status says `state`, start it again, and return its name."""
    shop = story.shop

    def found() -> list[str]:
        return [d for d in DEVICES if d not in spared and shop.local(d).get("state") == state]

    shop.wait(f"a device is {state}", found, timeout_s=FOUND_S, every_s=0.002)
    device = found()[0] if found() else ""
    if not device:  # it has moved on between the two looks: the next one will do
        return kill_one(story, state, spared)
    shop.processes[device].kill()
    story.report["kill"]["states"].append(shop.local(device).get("state"))
    shop.say(f"killed {device} while {state}; it starts again")
    shop.restart(device)
    return device


def hub_away(story: Story) -> None:
    """Stop the hub for a while; the agents answer on."""
    shop, traffic = story.shop, story.running_traffic
    before, failed = traffic.total, traffic.failed
    hub = shop.processes.pop("hub")
    hub.stop()
    shop.wait("traffic goes on without the hub", lambda: traffic.total > before + HUB_AWAY_REQUESTS, timeout_s=60)
    hub.start()
    shop.processes["hub"] = hub
    wait_for_hub(shop)
    shop.say(f"the hub was away for {traffic.total - before} requests; {traffic.failed - failed} of them failed")
