"""The reasons for which a connection to the broker fails: a word, the event, and the remedy. Pure.

refused          nothing listens there
unknown-host     the name is not known to this device
unreachable      no way leads there
timed-out        no answer: to the first packet, the handshake, or the login
wrong-name       a certificate of the hub's, for other names
wrong-hub        a certificate that is not of this device's hub, or no TLS at all
bad-dates        a certificate whose dates do not hold by this device's clock
not-authorised   the broker refuses this device
closed           the broker, or something before it, hung up
not-subscribed   the broker accepts this device and lets it not listen to what the hub tells it
does-not-last    the broker accepts this device and the connection is gone within moments, again and again
bad-address      what the hub named cannot be a broker
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Sequence

from msgspec import Struct

from edge_agent.errors import AgentError
from edge_agent.mqtt import reconnecting
from fleet.protocol.hosts import is_loopback
from fleet.protocol.messages import MqttEndpoint

HOST_MISMATCH, ADDRESS_MISMATCH = 62, 64  # X509_V_ERR_…_MISMATCH (openssl/x509_vfy.h)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)
_UNWELCOME = ("ALERT_CERTIFICATE", "ALERT_BAD_CERTIFICATE", "ALERT_ACCESS_DENIED", "ALERT_UNKNOWN_CA")
_LOGIN = ("Not authorized", "Bad user name or password", "Client identifier not valid", "Banned")
_REVOKED = "was it revoked? `fleet device show` on the hub's side says so; if so, enrol it anew, under another name"


class Trouble(Struct, frozen=True):
    """A reason that keeps a device from its broker."""

    reason: str
    detail: str
    hint: str = ""


def where(endpoint: MqttEndpoint) -> str:
    """An endpoint for people: `host:port`."""
    host = endpoint.host[:80]
    return f"[{host}]:{endpoint.port}" if ":" in host else f"{host}:{endpoint.port}"


def of_error(error: Exception, endpoint: MqttEndpoint) -> Trouble:
    """Name the trouble behind an exception that ended an attempt to connect to `endpoint`."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, AgentError):
        return Trouble(error.reason, str(error), error.hint)
    if isinstance(error, ssl.SSLError):
        return _of_tls(error, endpoint)
    if isinstance(error, socket.gaierror):
        return Trouble("unknown-host", f"{endpoint.host!r}: {said}", f"does this device's DNS know {endpoint.host}?")
    if isinstance(error, TimeoutError):
        if "handshake" in said:
            return Trouble("timed-out", said, f"is what listens on port {endpoint.port} there the hub's broker?")
        return Trouble("timed-out", said, f"is port {endpoint.port} open there, and in every firewall on the way?")
    if isinstance(error, ConnectionRefusedError):
        return Trouble("refused", said, _nobody_there(endpoint))
    if isinstance(error, OSError) and error.errno in _NO_WAY:
        return Trouble("unreachable", said, "is this device's network up, and does a route lead there?")
    if isinstance(error, ConnectionError):
        return closed(said)
    if isinstance(error, OSError):
        return Trouble("failed", said)
    return Trouble("bad-address", said, "the hub names the broker: `broker.advertise_host` in its hub.toml")


def of_refusal(code: str) -> Trouble:
    """Name the trouble behind the broker's answer to the login, given in paho's words."""
    if code in _LOGIN:
        return Trouble("not-authorised", code, _REVOKED)
    return Trouble("refused", code, "the broker's log says more")


def closed(said: str) -> Trouble:
    """A connection that the other side ended before it answered the login, or later."""
    if "eep alive" in said:
        return Trouble("timed-out", said, "the connection went dead; it is made anew")
    return Trouble("closed", said, f"the broker refuses this device's certificate, or is restarting; {_REVOKED}")


def unsteady(said: str, times: int) -> Trouble | None:
    """Name the trouble when several accepted connections in a row ended within moments; None for one or two."""
    if times <= reconnecting.FREE:
        return None
    hint = "a bad line, or another machine that connects as this device (a copied card): `fleet device show` knows"
    return Trouble(
        "does-not-last", f"{said}; {times} connections in a row were accepted and ended within moments", hint
    )


def deaf(topics: Sequence[str]) -> Trouble | None:
    """Name what the device misses where the broker refused these subscriptions; None without one."""
    if not topics:
        return None
    hint = "do the broker's rules let a device read its own commands and its channel's notices? the hub writes them"
    return Trouble("not-subscribed", f"the broker refuses the subscription to {' and '.join(topics)}", hint)


def silent(endpoint: MqttEndpoint, seconds: float) -> Trouble:
    """A connection that stands, with nobody who answers the login, or the subscription after it."""
    said = f"no answer to login and subscription within {seconds:.0f} s"
    return Trouble("timed-out", said, f"is what listens on port {endpoint.port} there an MQTT broker?")


def _of_tls(error: ssl.SSLError, endpoint: MqttEndpoint) -> Trouble:
    words = (getattr(error, name, "") for name in ("verify_message", "reason", "strerror"))
    said = next(filter(None, words), "") or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        number = getattr(error, "verify_code", None)
        if number in (HOST_MISMATCH, ADDRESS_MISMATCH):
            hint = f"on the hub: start `cloud-hub serve` with {endpoint.host!r} in `hostnames` of hub.toml"
            return Trouble("wrong-name", said, hint)
        if number is None:  # of `identity.tls.Dates`, which says what to do
            return Trouble("bad-dates", str(error))
        hint = f"what answers at {endpoint.host} is not the hub that this device enrolled with"
        return Trouble("wrong-hub", said, hint)
    if any(word in said for word in _UNWELCOME):
        return Trouble("not-authorised", said, _REVOKED)
    if isinstance(error, ssl.SSLEOFError):
        return closed(said)
    return Trouble("wrong-hub", said, f"is what listens on port {endpoint.port} there the hub's broker, with TLS?")


def _nobody_there(endpoint: MqttEndpoint) -> str:
    if is_loopback(endpoint.host):
        return (
            f"the hub told this device {endpoint.host}, which is the device itself: on the hub set `hostnames`, and"
            " `host` or `broker.advertise_host`, in hub.toml; if the hub is on this machine, start `cloud-hub serve`"
        )
    return f"does `cloud-hub serve` run there, and does its broker listen beyond 127.0.0.1 on port {endpoint.port}?"
