"""One POST over HTTPS, to an address that was checked: no redirects, no proxy, everything bounded in time and bytes.

The name is resolved once, every address it means is checked, and the connection goes to one of these addresses, while
the certificate must be valid for the name: a name that means something else a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import httptools

from cloud_hub.events.addresses import Address, check_addresses
from cloud_hub.events.schedule import LONGEST_WAIT_S, AttemptResult
from fleet.console.hiding import HIDDEN

HEAD, BODY = 16 << 10, 2 << 10  # bytes that are read of an answer
SHOWN = 200  # characters of an answer that are kept
SECRET = 6  # characters of a part of a path, from which on it may be one
ADDRESSES = 3  # of one name, that are tried
Resolve = Callable[[str, int], Awaitable[list[str]]]


class RefusedError(Exception):
    """An address that must not be connected to."""


class ParsedResponse:
    """The parsed part of an answer; `httptools` calls the methods that begin with `on_`."""

    def __init__(self) -> None:
        self.status = 0
        self.retry_after = ""
        self.body = b""
        self.over = False
        self.parser: Any = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        """The head is over; what is wrong behind it changes no status."""
        status = self.parser.get_status_code()
        self.status = status if status >= 200 else 0  # 1xx are no answers

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if name.lower() == b"retry-after":
            self.retry_after = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self.body += data[: BODY - len(self.body)]
        self.over = self.over or len(self.body) >= BODY

    def on_message_complete(self) -> None:
        """The end, unless it was of a 1xx, after which the answer comes."""
        self.over = bool(self.status)


async def post(
    place: Address,
    body: bytes,
    headers: Mapping[str, str],
    context: ssl.SSLContext,
    *,
    allow_private: bool,
    timeout_s: float,
    resolve: Resolve | None = None,
) -> AttemptResult:
    """Send `body`; whatever goes wrong is in the outcome. Nothing but cancelling is raised.

    Args:
        place: where to.
        headers: besides those of HTTP itself.
        context: whom to trust.
        timeout_s: for all of it, from the name to the status of the answer.
        resolve: host and port to addresses, by default the system's.
    """
    answer, writer = ParsedResponse(), None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await connect(place, context, allow_private, timeout_s, resolve or resolve_name)
            writer.write(_head(place, body, headers) + body)
            await writer.drain()
            await _read(reader, answer)
    except RefusedError as error:
        return AttemptResult(error=str(error))
    except TimeoutError:
        if not answer.status:
            return AttemptResult(error=f"no answer within {timeout_s:g} s")
    except ssl.SSLCertVerificationError as error:
        return AttemptResult(error=f"its certificate is not valid: {error.verify_message}")
    except httptools.HttpParserUpgrade:  # no HttpParserError: a 101, which nobody asked for
        return AttemptResult(error="it wants to speak another protocol than HTTP")
    except (OSError, ssl.SSLError, httptools.HttpParserError) as error:
        if not answer.status:
            return AttemptResult(error=connection_fault(error))
    finally:
        if writer is not None:
            writer.transport.abort()  # a polite end could wait for ever
    if not answer.status:
        return AttemptResult(error="it ended the connection without an answer")
    return AttemptResult(
        status=answer.status,
        error="" if 200 <= answer.status < 300 else _refusal(answer, place.path),
        retry_after_s=_seconds(answer.retry_after),
    )


async def connect(
    place: Address, context: ssl.SSLContext, allow_private: bool, timeout_s: float, resolve: Resolve
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a checked address of a place, with its certificate verified for the name.

    Args:
        place: host and port.
        context: of TLS.
        allow_private: addresses inside of a network are taken, too.
        timeout_s: seconds in all.
        resolve: returns the addresses of a name.

    Raises:
        RefusedError: it must not be connected to.
        OSError, TimeoutError: it cannot be.
    """
    addresses = await resolve(place.host, place.port)
    wrong = check_addresses(addresses, allow_private=allow_private)
    if wrong:
        raise RefusedError(f"not sent: {wrong}")
    tried = addresses[:ADDRESSES]
    for address in tried[:-1]:
        with contextlib.suppress(OSError):  # a name's next address may do; TimeoutError is one, too
            async with asyncio.timeout(timeout_s / (2 * len(tried))):
                return await _open(address, place, context)
    return await _open(tried[-1], place, context)


async def _open(
    address: str, place: Address, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        address, place.port, ssl=context, server_hostname=place.host, ssl_shutdown_timeout=0.1, limit=HEAD
    )


def _head(place: Address, body: bytes, headers: Mapping[str, str]) -> bytes:
    own = {
        "Host": place.authority,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": "edgeloop",
        "Connection": "close",
    }
    lines = [f"POST {place.path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**own, **headers}.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _read(reader: asyncio.StreamReader, answer: ParsedResponse) -> None:
    """Read until the status is known, and of a refusal what it says, within the bounds."""
    taken = 0
    while not answer.over and taken < HEAD + BODY:
        data = await reader.read(4096)
        if not data:
            return
        taken += len(data)
        answer.parser.feed_data(data)
        if 200 <= answer.status < 300:
            return


async def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of a name, in the system's order. In a thread of its own: a resolver that hangs holds up nobody."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def done(found: list[str] | None, error: OSError | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found or [])

    def look() -> None:
        found, wrong = None, None
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as error:
            wrong = error if isinstance(error, OSError) else OSError(f"its name cannot be looked up: {error}")
        with contextlib.suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(done, found, wrong)

    threading.Thread(target=look, name="events-resolve", daemon=True).start()
    return await future


def _refusal(answer: ParsedResponse, path: str) -> str:
    """The status, and the begin of the body in one line, without the parts of `path` that it repeats."""
    text = "".join(letter if letter.isprintable() else " " for letter in answer.body.decode("utf-8", "replace"))
    said = "redirects are not followed" if 300 <= answer.status < 400 else _without(path, text)[:SHOWN].strip()
    return f"it answered {answer.status}: {said}".removesuffix(": ")


def _without(path: str, text: str) -> str:
    """The text without parts of a path: many servers say which one they do not know, and it may be the secret."""
    parts = {form for part in re.split(r"[/?&=;]", path) for form in (part, unquote(part), quote(unquote(part), ""))}
    for part in sorted((part for part in parts if len(part) >= SECRET), key=len, reverse=True):
        text = re.sub(re.escape(part), HIDDEN, text, flags=re.IGNORECASE)
    return text


def _seconds(text: str) -> float:
    """Retry-After in seconds; its other form, a date, counts as nothing."""
    return min(float(text), LONGEST_WAIT_S) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def connection_fault(error: Exception) -> str:
    """Return the fault of a connection in words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:SHOWN]
