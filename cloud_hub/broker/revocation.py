"""Devices that may not go on: who they are, and the end of the connections that they have.

Mosquitto asks for a certificate once, at the login, so a revocation list keeps a device from coming back and ends no
connection. A client that logs in with the client id of another takes its place: that is how one connection is ended
and no other is touched. The hub's own authority makes the certificate for it, which is valid for minutes.
"""

from __future__ import annotations

import logging
import ssl
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import UnreachableError
from cloud_hub.ports import Authority
from cloud_hub.store import access_version
from cloud_hub.store.tables import CertificateRow, Device
from fleet.mqtt import Client

log = logging.getLogger(__name__)
CLOCKS_DIFFER_S = 86_400.0  # a broker on another machine may still take for valid what has just expired
LOOK_AGAIN_S = 3600.0  # at which certificates that have expired meanwhile leave the list
AT_ONCE = 4  # connections that are ended side by side
AGAIN_S = (0.0, 2.0, 120.0)  # Mosquitto waits 90 s for a login
ANSWER_S = 5.0  # for a broker to answer a login
TAKEOVER_DAYS = 600.0 / 86_400.0


class Revoked(Struct, frozen=True):
    """Names of the revoked devices, and serial numbers (hexadecimal) of their certificates that have not expired;
    both sorted."""

    devices: tuple[str, ...] = ()
    serials: tuple[str, ...] = ()


def revoked(session: Session, now: float) -> Revoked:
    """Return the revoked devices, with every certificate that each got, replaced ones too, until it expires by
    itself."""
    gone = col(Device.revoked_at).is_not(None)
    devices = session.exec(select(Device.id).where(gone)).all()
    serials = session.exec(
        select(CertificateRow.serial)
        .join(Device, col(Device.id) == col(CertificateRow.device_id))
        .where(gone, col(CertificateRow.expires_at) > now - CLOCKS_DIFFER_S)
    ).all()
    return Revoked(tuple(sorted(devices)), tuple(sorted(serials)))


class Revocations:
    """The revoked devices, read from the database when they can have changed and not at every look."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._version: int | None = None
        self._read_at = 0.0
        self._found = Revoked()

    def read(self) -> Revoked:
        """Return the revocations that hold now; a change that another process commits is seen by the next call."""
        now = self._hub.clock()
        with self._hub.reading() as session:
            version = access_version.read(session)  # before the rows, so that no change is taken for an older one
            if version is None or version != self._version or abs(now - self._read_at) >= LOOK_AGAIN_S:
                self._found = revoked(session, now)
                self._version, self._read_at = version, now
        return self._found


class Evictor:
    """Ends connections beside its caller, a few at a time; one that could not be ended is tried again at each look.

    A login that had begun before the broker read its lists may still succeed, for as long as the broker waits for it.
    So each connection is ended again after moments (`AGAIN_S`): what came late does not stay.
    """

    def __init__(self, end: Callable[[str], None], again_s: Sequence[float] = AGAIN_S) -> None:
        """`end(name)` ends the connection of one client, and raises when it could not."""
        self._end, self._again_s = end, tuple(again_s)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="evict")
        self._running: dict[str, Future[None]] = {}
        self._due: dict[str, tuple[float, ...]] = {}

    def look(self, fresh: Iterable[str], revoked: Collection[str], now: float) -> None:
        """Do what is due `now` (monotonic seconds); those that are not among the `revoked` any more are left alone."""
        self._due |= {name: tuple(now + pause for pause in self._again_s) for name in fresh}
        for name, future in list(self._running.items()):
            if future.done():
                del self._running[name]
                if (error := future.exception()) is not None:
                    log.warning("the connection of %s, which was revoked, is not ended yet: %s", name, error)
                    self._due[name] = (now, *self._due.get(name, ()))
        if self._due:
            known = frozenset(revoked)
            self._due = {name: times for name, times in self._due.items() if times and name in known}
        for name, (first, *later) in self._due.items():
            if first <= now and name not in self._running:
                self._due[name] = tuple(later)
                self._running[name] = self._pool.submit(self._end, name)

    def close(self) -> None:
        """Begin nothing more, and wait for what runs."""
        self._pool.shutdown(cancel_futures=True)


def take_over(authority: Authority, broker: tuple[str, int], ca_file: str, folder: Path, name: str, now: float) -> None:
    """End the connection of the client `name`, forget its session at the broker, and leave.

    Args:
        authority: makes a certificate in that name, valid for ten minutes.
        broker: host and port.
        ca_file: what the broker's own certificate is checked against.
        folder: where key and certificate lie for a moment; nobody else may read there.
        now: the hub's time, Unix seconds.

    Raises:
        UnreachableError: the broker does not answer, or refuses the login.
    """
    context = ssl.create_default_context(cafile=ca_file)
    made = authority.hub_client(now, name=name, days=TAKEOVER_DAYS)
    with tempfile.TemporaryDirectory(dir=folder) as private:
        file = Path(private) / "client.pem"
        file.write_bytes(made.key + made.certificate)
        context.load_cert_chain(file)
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv311, clean_session=True)
    client.tls_set_context(context)
    answers: list[Any] = []
    client.on_connect = lambda _client, _data, _flags, code, _properties: answers.append(code)
    try:
        client.connect(*broker)
    except OSError as error:
        raise UnreachableError(f"the broker does not answer: {error}", subject="broker") from error
    until = time.monotonic() + ANSWER_S
    state = mqtt.MQTT_ERR_SUCCESS
    while not answers and state == mqtt.MQTT_ERR_SUCCESS and time.monotonic() < until:
        state = client.loop(0.1)
    client.disconnect()
    if not answers or answers[0].is_failure:
        said = answers[0] if answers else mqtt.error_string(state)
        raise UnreachableError(f"the broker refuses the takeover of {name!r}: {said}", subject="broker")
