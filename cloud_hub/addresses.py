"""Three addresses each for HTTP and the broker: one to listen on, one to connect to, one to tell devices. Pure.

              bind                        connect                          advertise
    HTTP      host, port                  connect_url                      advertise_url
    broker    broker.host, broker.port    broker.connect_host, …_port      broker.advertise_host, …_port

An address that is not set is taken from the one to its left only where that can be meant. A wildcard is a place to
listen and no place to go: this machine then connects by loopback, and devices are told the first of `hostnames`.
Loopback leads to whatever machine it is read on: it is told to devices only as long as nothing else is known, and
`remarks` says so. The server certificate is valid for all of them (`names`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from cloud_hub.errors import UsageError
from fleet.protocol.hosts import is_loopback

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # what every server certificate is valid for
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST = 253  # characters of a whole name (RFC 1035)


class BrokerPlace(Protocol):
    """The part of the configuration that says where the broker is; see `config.BrokerConfig`."""

    host: str
    port: int
    connect_host: str
    connect_port: int | None
    advertise_host: str
    advertise_port: int | None
    public_host: str

    @property
    def kind(self) -> str:
        """`mosquitto`, `embedded` or `external` (or `auto`, before it is decided)."""
        ...

    def resolved(self) -> BrokerPlace:
        """The same with `kind` decided."""
        ...


class HubPlace(Protocol):
    """The part of the configuration that says where the hub is; see `config.HubConfig`."""

    host: str
    port: int
    tls: bool
    hostnames: tuple[str, ...]
    connect_url: str
    advertise_url: str
    public_url: str

    @property
    def broker(self) -> BrokerPlace:
        """The place of its broker."""
        ...


class Endpoint(NamedTuple):
    """A host name or address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Addresses(Struct, frozen=True, kw_only=True):
    """Every address of a hub, decided. `broker` is None where the broker is somebody else's.

    `names` are what the server certificate must be valid for beside loopback; `remarks` say, a sentence each, why
    devices on other machines cannot reach this hub.
    """

    http: Endpoint
    http_connect: str
    http_advertise: str
    broker: Endpoint | None
    broker_connect: Endpoint
    broker_advertise: Endpoint
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def resolve(config: HubPlace) -> Addresses:
    """The addresses that `config` means."""
    broker = config.broker.resolved()
    scheme, own = "https" if config.tls else "http", broker.kind != "external"
    names = tuple(name for name in config.hostnames if is_hostname(name))
    http, listener = Endpoint(config.host, config.port), Endpoint(_listens(config, broker), broker.port)
    connect = Endpoint(broker.connect_host or reachable(listener.host), broker.connect_port or broker.port)
    told = broker.advertise_host or broker.public_host or (_told(listener.host, names) if own else connect.host)
    advertised = Endpoint(told, broker.advertise_port or (listener if own else connect).port)
    url = config.advertise_url or config.public_url or f"{scheme}://{Endpoint(_told(http.host, names), http.port)}"
    hosts = [*names, http.host, urlsplit(url).hostname or ""]
    hosts += [listener.host, connect.host, advertised.host] if own else []
    return Addresses(
        http=http,
        http_connect=config.connect_url or f"{scheme}://{Endpoint(reachable(http.host), http.port)}",
        http_advertise=url,
        broker=listener if own else None,
        broker_connect=connect,
        broker_advertise=advertised,
        names=tuple(dict.fromkeys(host for host in hosts if is_hostname(host) and host not in LOOPBACK)),
        remarks=_remarks(config, broker, listener, advertised, url),
    )


def is_wildcard(host: str) -> bool:
    """Tell whether `host` means every address of this machine: good to listen on, and no place to connect to."""
    address = _address(host)
    return host == "" if address is None else address.is_unspecified


def reachable(host: str) -> str:
    """Return the host under which this machine finds a server that listens on `host`."""
    if not is_wildcard(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"


def is_hostname(text: str) -> bool:
    """Tell whether `check_hostname` has nothing against it as it stands."""
    try:
        return check_hostname(text) == text
    except UsageError:
        return False


def check_hostname(text: str) -> str:
    """The name or IP address in the form that certificates and DNS have: lower case, an international name in ASCII.

    Raises:
        UsageError: it cannot be the name of a host; the message says why, and the hint what to write.
    """
    address = _address(text)
    if address is not None:
        if address.is_unspecified or address.is_multicast or "%" in text:
            raise _refused(text, "is no address that others can connect to", "give the hub's own address, without zone")
        return str(address)
    _check_form(text)
    name = text.lower() if text.isascii() else _in_ascii(text)
    labels = name.split(".")
    if len(name) > _LONGEST:
        raise _refused(text, f"is longer than {_LONGEST} characters", "give a shorter name")
    for label in labels:
        if _LABEL.fullmatch(label) is None:
            raise _refused(text, _fault(label), "for example hub.example or 192.0.2.7")
    if labels[-1].isdigit():
        raise _refused(text, "looks like an IP address and is none", "for example 192.0.2.7")
    return name


def check_bind(text: str) -> str:
    """An address to listen on: a wildcard, or what `check_hostname` takes. Raises UsageError."""
    return text if is_wildcard(text) else check_hostname(text)


def _check_form(text: str) -> None:
    """Refuse what is more or less than a name: an address of the web, a port, brackets, nothing."""
    if not text.strip():
        raise _refused(text, "is empty", "for example --hostname hub.example")
    if "://" in text:
        host = urlsplit(text).hostname if text.isprintable() and "[" not in text else None
        raise _refused(text, "is an address with a scheme", f"give the name alone{f': {host}' if host else ''}")
    if "[" in text or "]" in text:
        raise _refused(text, "has brackets", "write an IPv6 address without them: 2001:db8::7")
    host, colon, port = text.rpartition(":")
    if colon and (port.isdigit() or not port):
        raise _refused(text, "has a port", f"give the name alone ({host}); ports are --port and --broker-port")


def _in_ascii(text: str) -> str:
    """An international name by its A-labels, as DNS and certificates hold it."""
    import idna

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise _refused(text, f"is no international name: {error}", "give its ASCII form (xn--…)") from error


def _fault(label: str) -> str:
    if not label:
        return "has an empty part (a dot too many)"
    if len(label) > 63:
        return "has a part of more than 63 characters"
    wrong = sorted(set(re.sub(r"[a-z0-9-]", "", label)))
    if wrong:
        return f"has {', '.join(map(repr, wrong))}; a host name has letters, digits, dashes and dots"
    return f"has a dash at the end of the part {label!r}"


def _refused(text: str, why: str, hint: str) -> UsageError:
    return UsageError(f"host name {text[:80]!r} {why}", subject="hostname", hint=hint)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _listens(config: HubPlace, broker: BrokerPlace) -> str:
    """Return the broker's host: beside HTTP for Mosquitto, which asks for certificates; loopback for the embedded
    one."""
    return broker.host or (config.host if broker.kind == "mosquitto" else "127.0.0.1")


def _told(bind: str, names: tuple[str, ...]) -> str:
    """Return the host that devices are told of a server that listens on `bind`: none on which it does not listen."""
    if is_loopback(bind):
        return bind
    return names[0] if names else reachable(bind)


def _remarks(
    config: HubPlace, broker: BrokerPlace, listener: Endpoint, advertised: Endpoint, url: str
) -> tuple[str, ...]:
    found = []
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        found.append(f"devices on other machines cannot reach {host} (HTTP); {_advice(config, config.host)}")
    if is_loopback(advertised.host):
        advice = _advice(config, listener.host, "broker.")
        if broker.kind == "embedded":
            advice = "the embedded broker is for one machine: install Mosquitto (apt-get install mosquitto)"
        elif broker.kind == "external":
            advice = "set broker.advertise_host in hub.toml to the broker's name as devices know it"
        found.append(f"devices on other machines cannot reach {advertised.host} (the broker); {advice}")
    found += [
        f"hostnames in hub.toml: {name!r} is no host name, and is left out"
        for name in config.hostnames
        if not is_hostname(name)
    ]
    return tuple(found)


def _advice(config: HubPlace, bind: str, prefix: str = "") -> str:
    steps = []
    if is_loopback(bind):
        where = f'{prefix}host = "0.0.0.0" in hub.toml' if prefix and config.broker.host else "--host 0.0.0.0"
        steps.append(f"listen on the network ({where})")
    if not any(is_hostname(name) for name in config.hostnames):
        steps.append('give the hub a name (init --hostname NAME, or hostnames = ["NAME"] in hub.toml)')
    return " and ".join(steps)
