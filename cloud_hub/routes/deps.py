"""What routes ask for in their signature; see `cloud_hub.api.access` and `cloud_hub.api.bodies`."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from cloud_hub.api.access import Admin as Admin
from cloud_hub.api.access import AnyCaller as AnyCaller
from cloud_hub.api.access import DeviceCaller as DeviceCaller
from cloud_hub.api.access import Fetcher as Fetcher
from cloud_hub.api.access import HubDep as HubDep
from cloud_hub.api.access import OperatorUser as OperatorUser
from cloud_hub.api.access import Viewer as Viewer
from cloud_hub.api.access import authorize_inference as authorize_inference
from cloud_hub.api.bodies import read_body as read_body
from cloud_hub.errors import InvalidError
from cloud_hub.identity.callers import Caller as Caller
from cloud_hub.identity.callers import RateLimiter as RateLimiter
from cloud_hub.identity.callers import caller_of as caller_of
from fleet.protocol.codec import DECODE_ERRORS

T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T:
    """A JSON request body as a struct; unknown fields are refused when the struct forbids them."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except DECODE_ERRORS as error:
        raise InvalidError(f"request body: {error}", subject="body") from error


def page(items: list[Any], next_cursor: object = None) -> dict[str, Any]:
    """The form of every list."""
    return {"items": items, "next": next_cursor}
