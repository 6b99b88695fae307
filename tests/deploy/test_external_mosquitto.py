"""The configuration of a Mosquitto that no hub starts says what the tested one of the hub says."""

from __future__ import annotations

from pathlib import Path

from cloud_hub.broker.mosquitto import Mosquitto, access_list
from cloud_hub.broker.revocation import Revoked
from cloud_hub.config import HubConfig
from cloud_hub.config_tables import BrokerConfig
from tests.support.hub import make_hub

FOLDER = Path(__file__).parents[2] / "deploy" / "mosquitto"
PLACES = {"listener", "cafile", "certfile", "keyfile", "acl_file", "persistence_location"}


def settings(text: str) -> list[tuple[str, str]]:
    words = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return sorted((name, "" if name in PLACES else value) for name, _, value in words)


def test_it_has_the_settings_of_the_one_that_a_hub_starts(tmp_path: Path) -> None:
    hub = make_hub(tmp_path).hub
    config = HubConfig.build(tmp_path, {"broker": {"kind": "mosquitto"}})
    own = Mosquitto(config, hub.authority, Revoked((), ()), hub.clock)._configuration()
    own = "\n".join(line for line in own.splitlines() if not line.startswith(("crlfile", "user ")))
    assert settings((FOLDER / "mosquitto.conf").read_text()) == settings(own)


def test_its_access_list_is_the_hubs() -> None:
    _, _, rules = (FOLDER / "acl").read_text().partition("\n")
    assert rules == access_list(BrokerConfig().prefix)
