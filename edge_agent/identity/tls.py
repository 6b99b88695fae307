"""TLS to the hub and its broker on a device whose clock may be wrong.

OpenSSL checks chain, names and purposes; the dates are judged here, after the handshake and before a
byte of ours is sent, against the latest moment that is known to have passed. A clock behind that
moment (1970 after a flat battery) must not cut a device off from the hub that could help it: then
only what has certainly expired is refused. A clock that no time server sets may as well run ahead: then, too, what
looks expired is judged by that moment. With a clock that can be right the rules are the usual ones.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from edge_agent.host.clock import FILE, TimeFloor
from edge_agent.host.clock import synchronised as kernel_synchronised

# X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h), which the ssl module has no name for
NO_CHECK_TIME = 0x200000

Clock = Callable[[], float]


class Dates:
    """Judges certificates' dates for the agent in `directory`.

    `synchronised` says whether `clock` is set by a time server; the kernel is asked about its own clock and no other.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock = time.time,
        slack_s: float = 3600.0,
        synchronised: Callable[[], bool] | None = None,
    ) -> None:
        self._path, self._clock, self._slack_s = directory / FILE, clock, slack_s
        self._synchronised = synchronised or (kernel_synchronised if clock is time.time else lambda: True)

    def check(self, chain: Iterable[Mapping[str, Any]]) -> None:
        """Raise ssl.SSLCertVerificationError, with what to do, for dates that do not hold.

        Args:
            chain: certificates as `ssl.SSLSocket.getpeercert` describes them.
        """
        now = self._clock()
        floor = TimeFloor(self._path, slack_s=self._slack_s)  # read anew: another process raises it
        for certificate in chain:
            why = refusal(
                ssl.cert_time_to_seconds(certificate["notBefore"]),
                ssl.cert_time_to_seconds(certificate["notAfter"]),
                now=now,
                floor=floor.value,
                trusted=floor.trusts(now),
                synchronised=self._synchronised(),
            )
            if why:
                raise ssl.SSLCertVerificationError(f"the certificate of {_name(certificate)} {why}")


def refusal(starts: float, ends: float, *, now: float, floor: float, trusted: bool, synchronised: bool = True) -> str:
    """Return why a certificate valid from `starts` to `ends` (Unix seconds) is refused, or an empty string.

    Args:
        now: what the clock says; counts only when it is `trusted`, and against an end only when it is `synchronised`.
        floor: a moment that is known to have passed.
    """
    if not trusted or (now > ends and not synchronised):
        # The true time is at or after the floor, so nothing can be said against a certificate that starts later.
        return (
            f"expired on {_date(ends)}, and {_date(floor)} has passed: restart the hub, which renews it; if that moment"
            f" is wrong, and this device's clock ({_date(now)}) right, remove the file {FILE} in the agent's directory"
            if floor > ends
            else ""
        )
    moment = max(now, floor)
    if moment > ends:
        advice = "set this device's clock, or restart the hub, which renews it"
        return f"expired on {_date(ends)}, and it is {_date(moment)}: {advice}"
    if moment < starts:
        return f"is valid from {_date(starts)}, and this device's clock says {_date(moment)}: set the clock"
    return ""


def client_context(
    ca: Path, dates: Dates, *, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """A context that trusts `ca` alone and leaves the dates to `dates`; with a client certificate if given.

    Args:
        ca: PEM of the only authority to trust.
        dates: judges the dates of certificates, since clocks of devices may be wrong.
        certificate: PEM of the client's; None for none.
        key: PEM of the client's.

    Raises:
        OSError, ssl.SSLError: a file is missing or not what it should be.
    """
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.sslsocket_class = _judged_by(dates)
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=b"")  # an encrypted key is an error, and asks no terminal
    return context


def _judged_by(dates: Dates) -> type[ssl.SSLSocket]:
    class JudgedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            dates.check(_chain(self))

    return JudgedSocket


def _chain(connected: ssl.SSLSocket) -> list[Mapping[str, Any]]:
    """The verified chain, from the peer's own certificate to the CA's."""
    verified = connected._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # public from Python 3.13 on, as DER
    return [certificate.get_info() for certificate in verified]


def _name(certificate: Mapping[str, Any]) -> str:
    words = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return words[0] if words else "the hub"


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))
