"""Lets programs of this device ask the local API, and no web page in a browser on it.

It listens on loopback or a Unix socket only. Host and Origin are checked, so that a page cannot reach it through DNS
rebinding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LOOPBACK = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")


def refused(headers: Mapping[bytes, bytes], *, unix: bool) -> str:
    """Return why a request with these headers (lower-case names) is refused with 403; empty when it is not."""
    if not unix and LOOPBACK.fullmatch(headers.get(b"host", b"")) is None:
        return "the Host header is not this device's loopback address; call http://127.0.0.1:PORT"
    origin = headers.get(b"origin")
    if origin is not None and LOOPBACK.fullmatch(origin.partition(b"://")[2]) is None:
        return "requests from web pages of other origins are refused"
    return ""
