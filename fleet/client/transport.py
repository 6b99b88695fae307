"""The port by which the client reaches a hub, and its adapter over urllib3."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

import urllib3
from msgspec import Struct

from fleet.errors import NotFoundError, UnreachableError, UsageError

ANSWER_LIMIT = 1 << 30  # bytes; an export of samples is the largest answer


class HttpResponse(Struct, frozen=True, kw_only=True):
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Transport(Protocol):
    """Sends one request to a hub. Raises UnreachableError when no answer comes."""

    def send(
        self, method: str, path: str, *, body: bytes | IO[bytes] | None, headers: Mapping[str, str], timeout: float
    ) -> HttpResponse:
        """Send one request, and return the answer, whatever its status.

        Args:
            method: such as `GET`.
            path: starts with a slash and holds the query.
            body: bytes, or an open file that is streamed; None for none.
            headers: by name.
            timeout: seconds.

        Raises:
            UnreachableError: no answer came.
        """
        ...


class HttpTransport:
    """urllib3 to one base address; `ca` is a PEM file with the hub's own CA (None: the system's).

    Redirects are not followed: the token belongs to this hub only.
    """

    def __init__(self, url: str, *, ca: Path | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"not an address: {url!r}", subject=url, hint="for example https://hub.example:8080")
        if ca is not None and not ca.is_file():
            raise NotFoundError(f"no CA file {ca}", subject=str(ca), hint="give --ca the hub's keys/ca.pem")
        if ca is not None:
            _check_certificate(ca)
        self._url, self._ca = url.rstrip("/"), ca
        self._pool = urllib3.PoolManager(
            ca_certs=None if ca is None else str(ca), cert_reqs="CERT_REQUIRED", retries=False, maxsize=4
        )

    def send(
        self, method: str, path: str, *, body: bytes | IO[bytes] | None, headers: Mapping[str, str], timeout: float
    ) -> HttpResponse:
        """See `Transport.send`."""
        try:
            response = self._pool.request(
                method,
                self._url + path,
                body=body,
                headers=dict(headers),
                timeout=urllib3.Timeout(connect=min(timeout, 10.0), read=timeout),
                preload_content=False,
                redirect=False,
            )
            content = response.read(ANSWER_LIMIT)
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(
                f"{method} {self._url}{path}: {_reason(error)}", subject=self._url, hint=_hint(str(error), self._ca)
            ) from error
        return HttpResponse(
            status=response.status,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=content,
        )


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    inner = getattr(error, "reason", None) or error
    text = str(inner)
    return text.split(": ", 1)[1] if text.startswith("<") and ": " in text else text


def _check_certificate(ca: Path) -> None:
    try:
        ssl.create_default_context(cafile=str(ca))
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"{ca} holds no certificate ({error.strerror or error})",
            subject=str(ca),
            hint="give --ca the hub's keys/ca.pem",
        ) from error


def _hint(said: str, ca: Path | None) -> str:
    """Return what to do about a connection that failed, by the words of urllib3 and OpenSSL."""
    words = said.lower()
    if "not yet valid" in words or "has expired" in words:
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return f"this machine's clock says {now} UTC: is it right? If it is, the hub's certificate has to be renewed"
    if "match" in words:  # "mismatch" and "doesn't match", of a name or an address
        return "use a name that the hub's certificate has: `hostnames` in its hub.toml"
    if "certificate" in words and ca is None:
        return "the hub has its own CA: fleet login URL --token T --ca HUB_DIR/keys/ca.pem"
    if "certificate" in words:
        return f"another hub than that of {ca} answers there: check the address, or log in with its own keys/ca.pem"
    if "failed to resolve" in words:
        return "check the address: no such name is known to this machine"
    if "wrong_version_number" in words or "record_layer_failure" in words:
        return "that port does not speak TLS: check the port, or http:// instead of https://"
    return "is `cloud-hub serve DIR` running there?"
