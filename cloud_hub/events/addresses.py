"""The addresses that events may go to: https alone, and none inside of a network unless a setting allows it. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address(NamedTuple):
    """An address of `https`, or of a broker: host and port to connect to, `path` with its query, and `authority` for
    the Host header.

    `path` may be a secret, as Slack's is: only `host` is ever shown.
    """

    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def read_broker(url: str) -> Address:
    """The place of a broker, `mqtts://HOST:8883`; ValueError with what is wrong with it."""
    place = read_url(url, scheme="mqtts", usual=8883)
    if place.path != "/":
        raise ValueError("it must hold nothing behind the port; `topic` says where the broker gets events")
    return place


def read_url(url: str, *, scheme: str = "https", usual: int = 443) -> Address:
    """The place of an address; ValueError with what is wrong with it, which repeats none of it.

    Args:
        scheme: the only one that is taken.
        usual: the port of an address without one.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        host = (
            (parts.hostname or "").encode("idna").decode("ascii")
            if ":" not in (parts.hostname or "")
            else parts.hostname
        )
    except (ValueError, UnicodeError):
        raise ValueError("it is no address such as https://hooks.example/path") from None
    if parts.scheme != scheme or not host:
        raise ValueError(f"it must begin with {scheme}:// and name a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("it must hold neither a user nor a password nor a fragment")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(letter <= " " or letter == "\x7f" for letter in path):
        raise ValueError("its path must be printable ASCII; percent-encode the rest")
    return Address(host, port or usual, path)


def check_addresses(found: Sequence[str], *, allow_private: bool) -> str:
    """Nothing when all addresses that a name resolves to may be connected to; else which may not.

    All of them: a name that means a public and a private address at once is not to be trusted with either.
    """
    if not found:
        return "its name has no address"
    if allow_private:
        return ""
    inside = [address for address in found if not is_public(address)]
    if not inside:
        return ""
    return f"{inside[0]} lies inside of a network; `allow_private = true` at the target lets it pass"


def is_public(text: str) -> bool:
    """Tell whether an address is one of the internet: neither private, loopback, link-local, shared nor multicast."""
    try:
        address: _Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.is_site_local:  # fec0::/10: given up as a kind of its own, and still inside wherever it is in use
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
