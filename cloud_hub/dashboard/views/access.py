"""The rights of tokens, and the credentials that end soon."""

from __future__ import annotations

from msgspec import Struct

from cloud_hub.context import Hub
from cloud_hub.devices.finding import ending_certificates
from cloud_hub.identity import token_orders
from cloud_hub.trust.repository import expires_at
from cloud_hub.trust.rows import latest_metadata
from fleet.api.tokens import TokenInfo

SOON_S = 30 * 86_400.0
DEVICES = 20
TOKENS = 200


class AccessPage(Struct, frozen=True, kw_only=True):
    """Tokens (empty for those who may not see them) and how many `others` there are, signed roles with their ends, and
    certificates that end within 30 days: how many, and the first of them with their ends."""

    tokens: list[TokenInfo]
    others: int
    roles: list[tuple[str, float]]
    ending: int
    devices: list[tuple[str, float]]


def access_page(hub: Hub, *, tokens: bool) -> AccessPage:
    """The page's content; `tokens` is whether the visitor may see them."""
    with hub.reading() as session:
        roles = [(role, expires_at(body)) for role, body in latest_metadata(session).items()]
        count, devices = ending_certificates(session, hub.clock() + SOON_S, DEVICES)
    known, others = token_orders.list_working(hub, TOKENS) if tokens else ([], 0)
    return AccessPage(
        tokens=known,
        others=others,
        roles=sorted(roles, key=lambda pair: pair[1]),
        ending=count,
        devices=devices,
    )
