"""Acts 3 and 4: a hub with its keys, three enrolled devices, release 1 signed, published and served."""

from __future__ import annotations

from pathlib import Path

from fleet.demo.acts import train
from fleet.demo.processes import free_port, options
from fleet.demo.story import Story
from fleet.demo.workshop import CHANNEL, MODEL, Workshop
from fleet.errors import FleetError, UnreachableError

AUDIT_SHARE = 40  # per cent of requests; a demo has minutes, a fleet has days
WINDOW_REQUESTS = 30
# Less than a fleet would take: the demo has minutes, and windows of a second that do not depend on one another.
POLICY = '{"drift": {"baseline": "30s", "baseline_windows": 20}}'


def open_hub(shop: Workshop) -> None:
    """Make the hub, start it, and log in."""
    offline = shop.directory / "offline-keys"
    init = options(offline_keys=offline, port=shop.hub_port, token_file=shop.directory / "admin-token")
    shop.command("cloud_hub", "init", shop.hub_dir, *init)
    shop.say("offline root and targets keys lie in .demo/offline-keys: fine on loopback, wrong anywhere else")
    shop.start("hub", "cloud_hub", "serve", shop.hub_dir)
    wait_for_hub(shop)
    shop.fleet("login", shop.url, "--token", shop.admin_token(), "--ca", shop.ca)


def wait_for_hub(shop: Workshop) -> None:
    """Until the hub answers an operator."""

    def answers() -> bool:
        try:
            shop.client.models()
        except UnreachableError:
            return False
        return True

    shop.wait("the hub answers", answers, timeout_s=60)


def publish(shop: Workshop, release: Path, note: str, *, model: str = MODEL) -> int:
    """Publish a release directory; returns its number."""
    document = shop.fleet("release", "publish", release, "--model", model, "--note", note)
    shop.say(f"release {document['number']} of {model} is {document['status']}: {note}")
    return int(document["number"])


def put_on_channel(shop: Workshop, release: int) -> None:
    """Make `release` the default of the channel, with its own teacher as the auditor."""
    audited = options(auditor=release, audit_share=AUDIT_SHARE)
    tried = options(probation_requests=20, probation="10s", window_requests=WINDOW_REQUESTS, window="5s")
    shop.fleet("channel", "set", CHANNEL, *options(model=MODEL, release=release), *audited, *tried)


def enrol_devices(shop: Workshop) -> None:
    """Every device, each with its own claim token, key and process."""
    for device in shop.devices:
        enrol(shop, device)


def enrol(shop: Workshop, device: str, settings: str = "") -> int:
    """Enrol one device, with `agent.toml` when it has settings of its own, and start it; returns its port."""
    port = shop.agent_ports.get(device) or free_port()
    claim = shop.fleet("token", "create", "--channel", CHANNEL, "--label", "site=demo", "--note", device)
    directory = shop.agent_dir(device)
    shop.command("edge_agent", "enroll", shop.url, "--token", claim["token"], "--dir", directory, "--name", device)
    if settings:
        (directory / "agent.toml").write_text(settings, encoding="utf-8")
    shop.start(device, "edge_agent", "run", "--dir", directory, "--port", port)
    return port


def create_model(story: Story) -> None:
    """Bind the recipe to the model's name."""
    story.shop.fleet("model", "create", MODEL, "--recipe", train.RECIPE, "--policy", POLICY)


def alarms(shop: Workshop, *, of: int | None = None) -> int:
    """Count the drift alarms that the hub has raised so far, about one release or all, without those of broken data."""
    try:
        found = [alarm for alarm in shop.client.alarms() if alarm.model == MODEL]
        found = [alarm for alarm in found if alarm.detail.kind not in ("quality", "outliers")]
        return len([alarm for alarm in found if of in (None, alarm.release)])
    except FleetError as error:
        raise type(error)(f"asking for alarms: {error}", subject=error.subject, hint=error.hint) from error
