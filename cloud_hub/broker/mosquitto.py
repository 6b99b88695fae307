"""Mosquitto as a child process, with a configuration that the tests hold against Debian's 2.0.11.

Devices show their certificate; its common name is their user name and client id, and the access
list lets each write its own uplinks and read its own commands and the channels' notices. Everything
else is denied, and nothing is retained. Mosquitto writes all that it holds once a minute, and at its end: what it
acknowledged since then is lost when it is killed. Reports wait in the spools of devices, whatever becomes of the
broker; a command that waited there for an absent device is lost, and its command says so after its time.

A revoked device may do nothing from the moment that Mosquitto has read both lists again, which a signal asks
for: the access list denies it every topic, the revocation list every login. Then its connection is taken over and
closed. No other connection is touched. Whoever began to connect before that may still get in, to read and write
nothing, and is taken over like the first (ADR 0029 has what was measured).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import get_args

from cloud_hub.addresses import reachable
from cloud_hub.broker.leftover import CONFIGURATION, STOP_S, end_leftover, remember
from cloud_hub.broker.replica import NAMES
from cloud_hub.broker.revocation import Evictor, Revoked, take_over
from cloud_hub.clock import SLACK_S, Clock
from cloud_hub.config import HubConfig
from cloud_hub.errors import UnreachableError
from cloud_hub.ports import Authority
from cloud_hub.trust.keys import write_private
from fleet.protocol import topics

log = logging.getLogger(__name__)
START_S = 10.0
RENEW_S = 15 * 86_400.0  # a revocation list holds for 30 days
SAVE_S = 60  # the whole state is written at once: after every change, which is the size of the fleet for each message
MESSAGE_LIMIT = 128 << 10  # bytes; the protocol's own limits are half of it


class Mosquitto:
    """A context manager around the child process."""

    def __init__(self, config: HubConfig, authority: Authority, revoked: Revoked, clock: Clock) -> None:
        self._config = config
        self._broker = config.broker.resolved()
        listener = config.addresses.broker
        assert listener is not None  # whoever starts a broker listens
        self._listener, self._local = listener, (reachable(listener.host), listener.port)
        self._authority = authority
        self._folder = config.directory / "broker"
        self._child: subprocess.Popen[bytes] | None = None
        self._clock = clock
        self._revoked, self._listed_at = revoked, clock()
        self._evictor = Evictor(self._evict)

    def __enter__(self) -> Mosquitto:
        """Start it and wait until it listens.

        Raises:
            UnreachableError: not installed, or it ended; the message has its words.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._evictor.close()
        self._stop()

    def revoke(self, revoked: Revoked) -> None:
        """Refuse these devices from now on, and no others; open connections of theirs are ended within seconds."""
        now = self._clock()
        fresh = set(revoked.devices) - set(self._revoked.devices)
        holds = 0 <= now - self._listed_at + SLACK_S < RENEW_S  # one dated ahead is not valid yet: nobody may connect
        if revoked != self._revoked or not holds:
            self._write_lists(revoked, now)
            self.check()
            assert self._child is not None  # checked
            self._child.send_signal(signal.SIGHUP)
            self._revoked, self._listed_at = revoked, now
        self._evictor.look(fresh, revoked.devices, time.monotonic())

    def check(self) -> None:
        """Raise UnreachableError when the child has ended by itself, or could not be started again."""
        if self._child is None or self._child.poll() is not None:
            raise UnreachableError(f"mosquitto ended: {self._last_words()}", subject="broker")

    def _start(self) -> None:
        binary = self._broker.binary()
        if binary is None:
            raise UnreachableError("mosquitto is not installed", subject="broker", hint="apt-get install mosquitto")
        self._write_lists(self._revoked, self._listed_at)
        (self._folder / CONFIGURATION).write_text(self._configuration())
        end_leftover(self._folder)
        with (self._folder / "mosquitto.log").open("ab") as output:
            self._child = subprocess.Popen(
                [binary, "-c", str(self._folder / CONFIGURATION)], stdout=output, stderr=output
            )
        remember(self._folder, self._child.pid)
        self._wait()

    def _write_lists(self, revoked: Revoked, now: float) -> None:
        listed = self._authority.revocation_list(revoked.serials, now)
        write_private(self._folder / "revoked.pem", listed, replace=True)
        allowed = access_list(self._broker.prefix, revoked.devices)
        write_private(self._folder / "acl", allowed.encode(), replace=True)

    def _evict(self, name: str) -> None:
        # Its login takes several rounds, and Mosquitto has read the new lists after the first of them: who connects
        # after this is refused.
        at, ca_file = self._config.addresses.broker_connect, str(self._config.ca_file)
        take_over(self._authority, at, ca_file, self._folder, name, self._clock())

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            self.check()
            try:
                socket.create_connection(self._local, 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise UnreachableError(f"mosquitto does not listen: {self._last_words()}", subject="broker")

    def _last_words(self) -> str:
        log_file = self._folder / "mosquitto.log"
        lines = log_file.read_text(errors="replace").splitlines() if log_file.exists() else []
        return lines[-1][:300] if lines else "no words"

    def _configuration(self) -> str:
        config, folder = self._config, self._folder
        return "\n".join(
            [
                f"listener {self._listener.port} {self._listener.host}".rstrip(),
                f"cafile {config.ca_file}",
                f"certfile {config.server_certificate}",
                f"keyfile {config.server_key}",
                f"crlfile {folder / 'revoked.pem'}",
                "require_certificate true",
                "use_identity_as_username true",
                "use_username_as_clientid true",
                "allow_anonymous false",
                f"acl_file {folder / 'acl'}",
                "retain_available false",
                "persistence true",
                f"persistence_location {folder}/",
                "autosave_on_changes false",
                f"autosave_interval {SAVE_S}",
                f"message_size_limit {MESSAGE_LIMIT}",
                "max_inflight_messages 100",
                "max_queued_messages 10000",
                "max_queued_bytes 67108864",
                "persistent_client_expiration 14d",
                "log_type error",
                "log_type warning",
                "log_type notice",
                "log_dest stderr",
                "user root" if _is_root() else "",
                "",
            ]
        )


def access_list(prefix: str, revoked: Sequence[str] = ()) -> str:
    """Return the rights of each identity; a topic that is not listed is denied. `%u` is the certificate's common name.

    Uplinks begin with one of the 16 digits that devices are spread over: whether it is the device's own, which no
    pattern can say, is asked by the ingest. A denial in the section of a user outweighs every pattern.
    """
    hub = (f"topic read {prefix}/up/#", f"topic write {prefix}/down/#", f"topic write {prefix}/channels/#")
    uplinks = (f"{prefix}/up/{digit}/%u/{leaf}" for digit in topics.DIGITS for leaf in get_args(topics.Leaf))
    lines = [
        *(line for name in NAMES for line in (f"user {name}", *hub, "")),
        *(line for name in revoked for line in (f"user {name}", "topic deny #", "")),
        *(f"pattern write {uplink}" for uplink in uplinks),
        f"pattern read {prefix}/down/%u/cmd",
        f"pattern read {prefix}/channels/+/notify",
    ]
    return "\n".join([*lines, ""])


def _is_root() -> bool:
    """As root Mosquitto would become the user `mosquitto`, who cannot read the hub's keys."""
    return os.geteuid() == 0
