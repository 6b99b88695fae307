"""Chooses the broker by the configuration, and opens the hub's connection to it."""

from __future__ import annotations

import contextlib
import functools
import hmac
import logging
import secrets
from collections.abc import Callable, Collection, Iterator

from msgspec.structs import replace
from sqlmodel import col, select

from cloud_hub.broker.link import Address, Arrived, Link
from cloud_hub.broker.replica import Name
from cloud_hub.broker.revocation import Revocations
from cloud_hub.context import Hub
from cloud_hub.errors import UnreachableError
from cloud_hub.identity.ca import HUB_IDENTITY
from cloud_hub.store.tables import Device
from fleet.protocol import topics

log = logging.getLogger(__name__)


class Open:
    """A broker that is up and the hub's connection to it: what it hears may `follow` other shards.

    It `hears` while the broker is connected and has granted what was asked. `check()` raises when a broker of ours has
    ended, or when one refuses to let the hub hear devices; `revoke()` carries revocations to it, and closes the
    connections of devices that were revoked.
    """

    def __init__(self, link: Link, check: Callable[[], None], revoke: Callable[[], None]) -> None:
        self.publish, self.follow = link.publish, link.follow
        self._link, self._check = link, check
        self.revoke = revoke

    @property
    def hears(self) -> bool:
        """True while devices are heard."""
        return self._link.hears

    def check(self) -> None:
        """Raise UnreachableError when both have to start anew."""
        self._check()
        self._link.check()


@contextlib.contextmanager
def open_link(
    hub: Hub, arrived: Arrived, digits: Collection[str] = topics.DIGITS, *, traced: bool = False
) -> Iterator[Open]:
    """Start (or join) the broker and connect to it; `arrived` gets the messages of devices of these shards.

    With `traced` it is by MQTT 5 where the broker speaks it, so that messages carry traces.

    Raises:
        UnreachableError: it does not start, does not answer, or refuses the hub.
    """
    broker = hub.config.broker.resolved()
    with contextlib.ExitStack() as stack:
        if broker.kind == "embedded":
            address, check, revoke = _embedded(hub, stack)
        else:
            name = stack.enter_context(Name(hub))
            watch, revoke = _mosquitto(hub, stack) if broker.kind == "mosquitto" else (_nothing, _nothing)
            address = _address(hub, name)

            def check() -> None:
                watch()
                name.keep()

        stands = functools.partial(hub.board.say, "broker")

        def linked(by: Address) -> Link:
            return stack.enter_context(Link(by, broker.prefix, arrived, stands, digits))

        link = _by_mqtt_5(linked, address) if traced and broker.kind != "embedded" else linked(address)
        yield Open(link, check, revoke)


def _by_mqtt_5(linked: Callable[[Address], Link], address: Address) -> Link:
    """Connect so that messages carry traces, or as ever where the broker will not have it.

    Raises:
        UnreachableError: neither way.
    """
    try:
        return linked(replace(address, traced=True))
    except UnreachableError as error:
        log.warning("no connection by MQTT 5, without which messages carry no traces; trying MQTT 3.1.1: %s", error)
        return linked(address)


def _mosquitto(hub: Hub, stack: contextlib.ExitStack) -> tuple[Callable[[], None], Callable[[], None]]:
    """Start Mosquitto; what watches it, and what carries revocations to it."""
    from cloud_hub.broker.mosquitto import Mosquitto

    revocations = Revocations(hub)
    child = stack.enter_context(Mosquitto(hub.config, hub.authority, revocations.read(), hub.clock))
    return child.check, lambda: child.revoke(revocations.read())


def _embedded(hub: Hub, stack: contextlib.ExitStack) -> tuple[Address, Callable[[], None], Callable[[], None]]:
    """Start the embedded broker, which no other hub can use: its password is this process's."""
    from cloud_hub.broker.embedded import Embedded

    listener, (host, port) = hub.config.addresses.broker, hub.config.addresses.broker_connect
    assert listener is not None  # the embedded broker is ours
    password = secrets.token_urlsafe(24)
    ours = Embedded(listener.host, listener.port, hub.config.broker.prefix, _login(hub, password))
    stack.enter_context(ours)
    address = Address(host=host, port=port, client_id=HUB_IDENTITY, username=HUB_IDENTITY, password=password)
    return address, ours.check, lambda: ours.revoke(lambda names: enrolled_among(hub, names))


def enrolled_among(hub: Hub, names: Collection[str]) -> frozenset[str]:
    """Those of the named devices that the hub knows and has not revoked."""
    enrolled = select(Device.id).where(col(Device.id).in_(names), col(Device.revoked_at).is_(None))
    with hub.reading() as session:
        return frozenset(session.exec(enrolled))


def _address(hub: Hub, name: Name) -> Address:
    """The broker with the hub's own certificate, or somebody else's with its own files and login."""
    broker, (host, port) = hub.config.broker, hub.config.addresses.broker_connect
    theirs = broker.resolved().kind == "external" and (broker.ca_file or broker.username or not broker.resolved().tls)
    if theirs:
        return Address(
            host=host,
            port=port,
            client_id=name.text,
            ca_file=broker.ca_file,
            cert_file=broker.cert_file,
            key_file=broker.key_file,
            username=broker.username,
            password=broker.password,
        )
    certificate, key = name.certificate()
    return Address(
        host=host,
        port=port,
        client_id=name.text,
        ca_file=str(hub.config.ca_file),
        cert_file=str(certificate),
        key_file=str(key),
    )


def _login(hub: Hub, own: str) -> Callable[[str, str], bool]:
    def check(name: str, password: str) -> bool:
        if name == HUB_IDENTITY:
            return hmac.compare_digest(password.encode(), own.encode())
        with hub.reading() as session:
            device = session.get(Device, name)
        if device is None or device.revoked_at is not None or not device.mqtt_password:
            return False
        return hmac.compare_digest(password.encode(), device.mqtt_password.encode())

    return check


def _nothing() -> None:
    """An external broker looks after itself."""
