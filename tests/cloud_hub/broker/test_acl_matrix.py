"""Every device tries every kind of topic of every other device in every way: nothing leaks, at either broker."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from cloud_hub.broker.choose import open_link
from fleet.protocol import topics
from tests.cloud_hub.broker.test_brokers import Client, Site
from tests.support.require import require
from tests.support.size import sized

DEVICES = sized(4, 20)
NAMES = [f"cam-{number}" for number in range(DEVICES)]
LEAK = b"leak: "
LEAVES = ("status", "report", "telemetry")


@pytest.fixture(params=["mosquitto", "embedded"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "mosquitto":
        require("mosquitto", "mosquitto")
    site = Site(tmp_path, request.param)
    for name in NAMES:
        site.enrol(name)
    yield site
    site.clear()


def unknown_topics(name: str) -> tuple[str, ...]:
    """Topics that are nobody's: shards that are none, leaves that are none, the hub's side, another prefix."""
    own = topics.uplink(name, "report")
    return (
        *(f"{topics.PREFIX}/up/{shard}/{name}/report" for shard in ("x", "00", "", "G")),
        own.replace("/report", "/cmd"),
        f"{own}/more",
        f"{topics.PREFIX}/up/{name}",
        f"{topics.PREFIX}/down/{name}/cmd",
        topics.notify("stable"),
        f"other/{own}",
        f"$SYS/{name}",
        f"{topics.events()}/job.failed",
    )


class Attacker:
    """One device's tries; `count` is how many, `heard` what came to it meanwhile."""

    def __init__(self, site: Site, name: str, victims: list[str]) -> None:
        self._site, self._name, self._victims = site, name, victims
        self.count, self.heard = 0, list[tuple[str, bytes]]()

    def attack(self) -> None:
        with_one = self._site.online(self._name)
        wishes = [topic for victim in self._victims for topic in (topics.command(victim), self._uplink(victim))]
        for wish in (*wishes, "#", f"{topics.PREFIX}/down/+/cmd", f"{topics.events()}/#", topics.uplink_filter()):
            self._subscribe(with_one, wish)
        sent = [
            with_one.paho.publish(topic, LEAK + topic.encode(), qos=1)
            for victim in self._victims
            for topic in (self._uplink(victim), topics.command(victim))
        ]
        sent += [with_one.paho.publish(topic, LEAK, qos=1) for topic in unknown_topics(self._name) if "$" not in topic]
        for one in sent:
            one.wait_for_publish(60)  # a broker acknowledges what it denies
        self.count += len(wishes) + 2 * len(self._victims)
        self._done(with_one)
        for victim in self._victims:
            for topic in (self._uplink(victim), topics.command(victim)):
                self._retained(topic)
            for retain in (False, True):
                self._will(self._uplink(victim), retain=retain)
        self._retained(
            topics.uplink(self._name, "report"), counted=False
        )  # its own: it may write it, and nothing keeps it
        for topic in unknown_topics(self._name) if self._name == NAMES[0] else ():
            self._will(topic, retain=False, counted=False)

    def _uplink(self, victim: str) -> str:
        return topics.uplink(victim, LEAVES[NAMES.index(victim) % 3])  # type: ignore[arg-type]

    def _subscribe(self, client: Client, wish: str) -> None:
        before = len(client.events)
        client.paho.subscribe(wish, qos=1)
        client.wait(lambda events: len(events) > before)  # granted or not: what counts is what is delivered

    def _retained(self, topic: str, *, counted: bool = True) -> None:
        """Mosquitto ends the connection for it, the embedded broker takes it as any other message."""
        client = self._site.online(self._name)
        before = len(client.events)
        client.paho.on_publish = lambda *_: client._event("acknowledged")
        client.paho.publish(topic, (LEAK if counted else b"kept: ") + topic.encode(), qos=1, retain=True)
        client.wait(lambda events: len(events) > before)
        self._done(client)
        self.count += counted

    def _will(self, topic: str, *, retain: bool, counted: bool = True) -> None:
        client = self._site.client(self._name, will=topic, retain=retain)  # its payload is `forged`
        client.wait(lambda events: {"subscribed", "refused", "ended"} & set(events))
        self._done(client, cut="subscribed" in client.events)
        self.count += counted

    def _done(self, client: Client, *, cut: bool = False) -> None:
        """End a connection and forget it: thousands of them would hold all the files that a process may open."""
        if cut:
            client.cut()
        else:
            client.close()
        self.heard += client.ear.heard
        self._site.clients.remove(client)


def retained_of(site: Site) -> list[str]:
    """Topics of what Mosquitto keeps for a hub that subscribes to everything that hubs may read."""
    made = site.hub.authority.hub_client(site.hub.clock(), name="_hub-1")
    (site.folder / "_hub-1.pem").write_bytes(made.key + made.certificate)
    context = ssl.create_default_context(cafile=str(site.hub.config.ca_file))
    context.load_cert_chain(site.folder / "_hub-1.pem")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="_hub-1", protocol=mqtt.MQTTv311)
    client.tls_set_context(context)
    found: list[str] = []
    done: list[int] = []
    client.on_message = lambda _c, _d, message: found.append(message.topic)
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: client.unsubscribe("none")  # its answer comes after what is retained
    client.on_unsubscribe = lambda *_: done.append(1)
    client.connect(site.mqtt.host, site.mqtt.port)
    while not done:
        assert client.loop(1.0) == mqtt.MQTT_ERR_SUCCESS
    client.disconnect()
    return found


def test_nothing_leaks_from_any_device_to_any_other(site: Site) -> None:
    with open_link(site.hub, site.ear) as link:
        ears = {name: site.online(name) for name in NAMES}
        tries, stray = 0, list[tuple[str, bytes]]()
        for name in NAMES:
            ears[name].close()
            attacker = Attacker(site, name, [other for other in NAMES if other != name])
            attacker.attack()
            tries += attacker.count
            stray += attacker.heard
            before = ears[name].ear
            ears[name] = site.online(name)
            ears[name].ear.heard.extend(before.heard)
        for name, client in ears.items():  # the secrets that nobody else hears, after all that came before
            link.publish(topics.command(name), b"for " + name.encode())
            client.up("report", b"of " + name.encode())
        for name, client in ears.items():
            client.ear.wait(topics.command(name), b"for " + name.encode())
            site.ear.wait(topics.uplink(name, "report"), b"of " + name.encode())
            assert {topic for topic, _ in client.ear.heard} == {topics.command(name)}
        if site.kind == "mosquitto":
            assert retained_of(site) == []
        for name, client in ears.items():
            client.cut()
            site.ear.wait(topics.uplink(name, "status"), b"lost")
        heard = [*site.ear.heard, *stray, *(message for client in site.clients for message in client.ear.heard)]
        assert [message for message in heard if message[1].startswith(LEAK) or message[1] == b"forged"] == []
    assert tries == 8 * DEVICES * (DEVICES - 1)
    assert tries == sized(96, 3040)
