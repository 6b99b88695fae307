"""The port by which the client reaches a hub, and its adapter over urllib3."""

from __future__ import annotations

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
        self._url = url.rstrip("/")
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
                f"{method} {self._url}{path}: {_reason(error)}", subject=self._url, hint=_hint(error)
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


def _hint(error: urllib3.exceptions.HTTPError) -> str:
    if "CERTIFICATE" in str(error).upper():
        return "the hub has its own CA: fleet login URL --token T --ca HUB_DIR/keys/ca.pem"
    return "is `cloud-hub serve DIR` running there?"
