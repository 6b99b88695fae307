"""amqtt in a thread of this process: a broker for one machine, when Mosquitto is not installed.

Loopback only. Every device logs in with the password it got at enrolment; topics are default-deny, for
last wills as for everything else; a device that was revoked is disconnected; nothing is retained.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from amqtt.adapters import BufferReader, ReaderAdapter, StreamReaderAdapter, StreamWriterAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action
from amqtt.errors import MQTTError
from amqtt.mqtt.connack import NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from cloud_hub.errors import ForbiddenError, UnreachableError
from cloud_hub.identity.ca import HUB_IDENTITY
from fleet.protocol import topics
from fleet.protocol.errors import ProtocolError
from fleet.protocol.hosts import is_loopback

log = logging.getLogger(__name__)
START_S = 10.0
LOGIN_S = 10.0  # for a new connection to say who it is
EVICT_S = 5.0  # for the end of a connection that was closed from here
Check = Callable[[str, str], bool]

# amqtt builds its plugins itself, by name; this is how they find the broker that they belong to.
_CHECKS: dict[str, tuple[Check, str]] = {}


class DatabaseLogin(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is untyped here
    """User name and password against the hub's database."""

    @dataclass
    class Config:
        """The address of this process's broker that it belongs to."""

        bind: str = ""

    async def authenticate(self, *, session: Session) -> bool | None:
        """Tell whether this session may connect. Its client id must be its user name."""
        check, _ = _CHECKS[self.context.config.bind]
        name, password = session.username or "", session.password or ""
        return bool(session.client_id == name and await asyncio.to_thread(check, name, password))


class Access(BaseTopicPlugin):  # type: ignore[misc]
    """Each device its own topics, the hub all of them."""

    Config = DatabaseLogin.Config

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        """Tell whether the session may publish to or receive from a topic."""
        _, prefix = _CHECKS[self.context.config.bind]
        name = session.username if session else None
        if not name or not topic:
            return False
        return name == HUB_IDENTITY or allowed(name, topic, publish=action == Action.PUBLISH, prefix=prefix)


class _Recorded(ReaderAdapter):  # type: ignore[misc]
    """Keeps what was read, to be read once more."""

    def __init__(self, reader: ReaderAdapter) -> None:
        self._reader = reader
        self.data = b""

    async def read(self, n: int = -1) -> bytes:
        data: bytes = await self._reader.read(n)
        self.data += data
        return data

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class _Writer(StreamWriterAdapter):  # type: ignore[misc]
    """Closes what the peer has closed already, where asyncio raises: amqtt would count it as connected for ever."""

    async def close(self) -> None:
        try:
            await super().close()
        except OSError as error:
            log.debug("a client was gone before its connection was closed: %s", error)
            self._writer.close()


class _Connection(NamedTuple):
    """A client that is being served; `ended` is set when nothing of it is left."""

    handler: BrokerProtocolHandler
    writer: WriterAdapter
    ended: asyncio.Event


class _Guarded(Broker):  # type: ignore[misc]
    """amqtt 0.12 with what it lacks.

    It takes a client id's session over (its name, its will, its connection) before it asks who is there: here a
    client without a right to the id, or to its will's topic, is sent away before that. It asks nobody about wills:
    here everything that is published is asked about. It hands retained messages to clients that may not read them:
    here nothing is retained. A client that takes its own session over stays deaf, since the old connection's end
    marks the session as disconnected: here the old one is ended first.
    """

    def __init__(self, configuration: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(configuration, loop)
        self.connections: dict[str, _Connection] = {}

    async def cut(self, names: Collection[str]) -> None:
        """Close these clients' connections and forget their sessions; no last will of theirs is published."""
        for name in names:
            session, _ = self._sessions.get(name, (None, None))
            if session is not None:
                session.will_flag = False
            await self._evict(name)
            await self._cleanup_session(name)

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """As in amqtt, with a writer whose end is no error."""
        await self._client_connected(listener_name, StreamReaderAdapter(reader), _Writer(writer))

    async def _evict(self, name: str) -> None:
        found = self.connections.get(name)
        if found is None:
            return
        await found.handler.handle_connection_closed()
        await found.writer.close()  # also ends one that is only beginning to be served
        async with asyncio.timeout(EVICT_S):
            await found.ended.wait()

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> Any:
        recorded = _Recorded(reader)
        try:
            async with asyncio.timeout(LOGIN_S):
                connect = await ConnectPacket.from_stream(recorded)
            asking = Session()
            asking.client_id, asking.username, asking.password = connect.client_id, connect.username, connect.password
            welcome = await self._authenticate(asking, {}) and await self._may_will(asking, connect)
            if not welcome:
                await ConnackPacket.build(0, NOT_AUTHORIZED).to_stream(writer)
                raise MQTTError(f"no right to client id {asking.client_id!r}, or to its last will's topic")
            await self._evict(asking.client_id)
        except asyncio.CancelledError:
            await writer.close()
            raise
        except Exception as error:  # any other than its own would cost amqtt one of its connections, for ever
            await writer.close()
            raise MQTTError(f"no client: {error}") from error
        return await super()._initialize_client_session(
            BufferReader(recorded.data), writer, remote_address, remote_port
        )

    async def _may_will(self, asking: Session, connect: ConnectPacket) -> bool:
        if not connect.will_flag:
            return True
        return bool(await self._topic_filtering(asking, connect.will_topic, Action.PUBLISH))

    async def _handle_client_session(
        self,
        reader: ReaderAdapter,
        writer: WriterAdapter,
        client_session: Session,
        handler: BrokerProtocolHandler,
        *rest: Any,
    ) -> None:
        name = str(client_session.client_id)
        await self._evict(name)  # two that came at once
        connection = self.connections[name] = _Connection(handler, writer, asyncio.Event())
        try:
            await super()._handle_client_session(reader, writer, client_session, handler, *rest)
        finally:
            if self.connections.get(name) is connection:
                del self.connections[name]
            connection.ended.set()

    async def _broadcast_message(
        self, session: Session | None, topic: str | None, data: bytes | None, force_qos: int | None = None
    ) -> None:
        if session is not None and not await self._topic_filtering(session, topic, Action.PUBLISH):
            log.warning("%s may not publish to %s", session.client_id, str(topic)[:200])
            return
        await super()._broadcast_message(session, topic, data, force_qos)

    async def retain_message(self, *_: Any, **__: Any) -> None:
        """Nothing is retained."""


def allowed(device: str, topic: str, *, publish: bool, prefix: str) -> bool:
    """Tell whether one device may use a topic: it may write its own uplinks, read its own commands and every notice."""
    if publish:
        try:
            return topics.parse_uplink(topic, prefix).device_id == device
        except ProtocolError:
            return False
    if topic == topics.command(device, prefix):
        return True
    parts = topic.removeprefix(f"{prefix}/channels/").split("/")
    return topic.startswith(f"{prefix}/channels/") and len(parts) == 2 and parts[1] == "notify"


class Embedded:
    """A context manager that runs the broker in a thread with an event loop of its own."""

    def __init__(self, host: str, port: int, prefix: str, check: Check) -> None:
        if not is_loopback(host):
            raise ForbiddenError(
                "the embedded broker is for loopback only",
                subject=host,
                hint="install Mosquitto: apt-get install mosquitto",
            )
        self._bind = f"{host}:{port}"
        self._prefix = prefix
        self._check = check
        self._ready = threading.Event()
        self._failure = ""
        self._broker: _Guarded | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="embedded-broker", daemon=True)

    def __enter__(self) -> Embedded:
        """Start it; raises UnreachableError with the reason when it does not."""
        _CHECKS[self._bind] = (self._check, self._prefix)
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure:
            raise UnreachableError(
                f"the embedded broker does not start: {self._failure or 'no answer'}", subject="broker"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._ending is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_S)
        _CHECKS.pop(self._bind, None)

    def check(self) -> None:
        """Raise UnreachableError when the broker has ended by itself."""
        if not self._thread.is_alive():
            raise UnreachableError(f"the embedded broker ended: {self._failure or 'no words'}", subject="broker")

    def revoke(self, enrolled: Callable[[Collection[str]], Collection[str]]) -> None:
        """Disconnect the devices that are connected and, of those, not among the `enrolled` ones any more."""
        assert self._broker is not None and self._loop is not None
        names = set(self._broker.connections) - {HUB_IDENTITY}
        gone = names - set(enrolled(names)) if names else set()
        if gone:
            log.warning("revoked, and disconnected: %s", ", ".join(sorted(gone)))
            asyncio.run_coroutine_threadsafe(self._broker.cut(gone), self._loop).result(2 * EVICT_S * len(gone))

    def _run(self) -> None:
        # The boundary of the thread: whatever stops the broker is told to whoever waits for it.
        try:
            asyncio.run(self._serve())
        except Exception as error:
            log.exception("the embedded broker failed")
            self._failure = str(error) or type(error).__name__
            self._ready.set()

    async def _serve(self) -> None:
        logging.getLogger("amqtt").setLevel(logging.WARNING)
        logging.getLogger("transitions").setLevel(logging.WARNING)
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        broker = self._broker = _Guarded(self._configuration(), self._loop)
        await broker.start()
        self._ready.set()
        await self._ending.wait()
        await broker.shutdown()

    def _configuration(self) -> dict[str, Any]:
        here = __name__
        return {
            "listeners": {"default": {"type": "tcp", "bind": self._bind, "max_connections": 200}},
            "plugins": {f"{here}.{one.__name__}": {"bind": self._bind} for one in (DatabaseLogin, Access)},
        }
