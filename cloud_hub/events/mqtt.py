"""One event to a broker over TLS: to an address that was checked, at quality of service 1, under one deadline.

Every try has a connection of its own, as every webhook has: events are few, and two hubs never share a client id.
paho is not used here: it resolves a broker's name itself and connects to whatever that means then.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl

from msgspec import Struct

from cloud_hub.events import packets
from cloud_hub.events.addresses import Address
from cloud_hub.events.packets import Acknowledgement
from cloud_hub.events.schedule import AttemptResult
from cloud_hub.events.sending import RefusedError, Resolve, connect, connection_fault, resolve_name

NUMBER = 1  # of the only publication of a connection
NOBODY = "the broker has it, and nobody has subscribed to it"


class BrokerLogin(Struct, frozen=True):
    """A user name and a password; both may be empty, where a certificate or nobody is asked for."""

    username: str = ""
    password: bytes = b""

    def __repr__(self) -> str:
        return f"Login({self.username!r})"  # the password is a secret


class Message(Struct, frozen=True):
    """A message, and the topic under which it is published."""

    topic: str
    payload: bytes


class _RefusalError(Exception):
    """The broker says no; `code` is its reason."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"the broker refuses {what}: {packets.reason(code)}")
        self.code = code


class _OtherVersionError(Exception):
    """The broker does not speak this version of MQTT."""


async def publish(
    place: Address,
    message: Message,
    context: ssl.SSLContext,
    login: BrokerLogin,
    *,
    allow_private: bool,
    timeout_s: float,
    resolve: Resolve | None = None,
) -> AttemptResult:
    """Publish once; whatever goes wrong is in the outcome. Nothing but cancelling is raised.

    Args:
        place: where the broker is.
        context: whom to trust, and the client's certificate.
        timeout_s: for all of it, from the name to the acknowledgement.
        resolve: host and port to addresses, by default the system's.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for version in (packets.V5, packets.V311):
                reader, writer = await connect(place, context, allow_private, timeout_s, resolve or resolve_name)
                try:
                    return await _tell(reader, writer, version, message, login, timeout_s)
                except _OtherVersionError:
                    continue
                finally:
                    writer.transport.abort()  # a polite end could wait for ever
        return AttemptResult(error="the broker speaks neither MQTT 5 nor 3.1.1")
    except _RefusalError as error:
        return AttemptResult(status=error.code, error=str(error))
    except TimeoutError:
        return AttemptResult(error=f"no answer within {timeout_s:g} s")
    except ssl.SSLCertVerificationError as error:
        return AttemptResult(error=f"its certificate is not valid: {error.verify_message}")
    except (RefusedError, ValueError) as error:
        return AttemptResult(error=str(error))
    except asyncio.IncompleteReadError:
        return AttemptResult(error="it ended the connection without an answer")
    except (OSError, ssl.SSLError) as error:
        return AttemptResult(error=connection_fault(error))


async def _tell(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    version: int,
    message: Message,
    login: BrokerLogin,
    timeout_s: float,
) -> AttemptResult:
    client_id = f"edgeloop-{secrets.token_hex(7)}"  # 23 letters, which every broker takes
    writer.write(packets.connect(version, client_id, int(timeout_s) + 1, login.username, login.password))
    try:
        welcome = await _answer(reader, version, packets.CONNACK)
    except asyncio.IncompleteReadError:
        if version == packets.V5:  # some brokers hang up on a version that they do not know
            raise _OtherVersionError from None
        raise
    if welcome.code in packets.OTHER_VERSION[version]:
        raise _OtherVersionError
    if packets.refused(version, welcome):
        raise _RefusalError("the hub", welcome.code)
    writer.write(packets.publish(version, message.topic, message.payload, NUMBER))
    taken = await _answer(reader, version, packets.PUBACK)
    if taken.number != NUMBER:
        raise ValueError("the broker acknowledges another message than it was sent")
    if packets.refused(version, taken):
        raise _RefusalError("the event", taken.code)
    writer.write(packets.DISCONNECT)
    await writer.drain()  # without a goodbye the broker's log would speak of a lost client
    remark = NOBODY if taken.code == packets.NO_SUBSCRIBER else ""
    return AttemptResult(arrived=True, status=taken.code, error=remark)


async def _answer(reader: asyncio.StreamReader, version: int, expected: int) -> Acknowledgement:
    """The next packet, which must be of this kind: a broker has nothing else to say to a client without subscriptions.

    Raises:
        ValueError: it is another, or longer than an answer is.
    """
    first, length, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        (byte,) = await reader.readexactly(1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if length > packets.LONGEST or shift > 28:
            raise ValueError("the broker's answer is too long")
        if not byte & 0x80:
            break
    if first >> 4 != expected:
        raise ValueError("the broker's answer is none of MQTT")
    return packets.read(version, first >> 4, await reader.readexactly(length))
