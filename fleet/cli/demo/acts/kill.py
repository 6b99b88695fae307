"""Act 9: SIGKILL in the middle of a fetch and of a trial; a hub that goes away. Nobody notices."""

from __future__ import annotations

from fleet.cli.demo.acts.opening import wait_for_hub
from fleet.cli.demo.story import Story
from fleet.cli.demo.workshop import CHANNEL, DEVICES, MODEL, Workshop

FETCH_SECONDS = 6
HUB_AWAY_S = 5.0
RECOVERY_S = 60.0


def kill_in(shop: Workshop, device: str, state: str) -> None:
    """Kill `device` as soon as its status says `state`, and start it again."""
    shop.wait(
        f"{device} is {state}", lambda: shop.local(device).get("state") == state, timeout_s=RECOVERY_S, every_s=0.002
    )
    shop.processes[device].kill()
    shop.say(f"killed {device} while {state}")
    shop.restart(device)


def update_under_fire(story: Story, release: int, size: int) -> None:
    """Change the channel's default to `release`, and kill two devices on their way there."""
    shop, traffic = story.shop, story.running_traffic
    failed_before = traffic.failed
    rate = max(1000, size // FETCH_SECONDS)
    shop.fleet("channel", "set", CHANNEL, "--max-rate", rate)
    shop.fleet("channel", "set", CHANNEL, "--model", MODEL, "--release", release)
    states = story.report["kill"]["states"]
    for device, state in ((DEVICES[0], "fetching"), (DEVICES[1], "trying")):
        kill_in(shop, device, state)
        states.append(state)
    seconds = shop.wait_installed(release, timeout_s=RECOVERY_S)
    shop.say(f"both finished the update {seconds:.1f} s later")
    hub_away(story)
    story.report["kill"]["recovered"] = True
    story.report["kill"]["requests_failed"] = traffic.failed - failed_before


def hub_away(story: Story) -> None:
    """Stop the hub for a while; the agents answer on."""
    shop, traffic = story.shop, story.running_traffic
    before, failed = traffic.total, traffic.failed
    hub = shop.processes.pop("hub")
    hub.stop()
    shop.wait("traffic goes on without the hub", lambda: traffic.total > before + 60, timeout_s=30)
    hub.start()
    shop.processes["hub"] = hub
    wait_for_hub(shop)
    shop.say(f"the hub was away for {traffic.total - before} requests; {traffic.failed - failed} of them failed")
