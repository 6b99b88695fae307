"""Mosquitto as a child process, with a configuration that the tests hold against Debian's 2.0.11.

Devices show their certificate; its common name is their user name and client id, and the access
list lets each write its own uplinks and read its own commands and the channels' notices. Everything
else is denied. What Mosquitto acknowledges is on its disk (`autosave_on_changes`), though nothing
relies on it. A revoked certificate is refused by the revocation list, and its connection is closed
within seconds, because a changed list restarts the broker: devices reconnect and resume.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType

from cloud_hub.addresses import reachable
from cloud_hub.broker.leftover import CONFIGURATION, STOP_S, end_leftover, remember
from cloud_hub.broker.replica import NAMES
from cloud_hub.clock import SLACK_S
from cloud_hub.config import HubConfig
from cloud_hub.errors import UnreachableError
from cloud_hub.ports import Authority

log = logging.getLogger(__name__)
START_S = 10.0
RENEW_S = 15 * 86_400.0  # a revocation list holds for 30 days
MESSAGE_LIMIT = 128 << 10  # bytes; the protocol's own limits are half of it


class Mosquitto:
    """A context manager around the child process."""

    def __init__(self, config: HubConfig, authority: Authority, revoked: Sequence[str], now: float) -> None:
        self._config = config
        self._broker = config.broker.resolved()
        listener = config.addresses.broker
        assert listener is not None  # whoever starts a broker listens
        self._listener, self._local = listener, (reachable(listener.host), listener.port)
        self._authority = authority
        self._folder = config.directory / "broker"
        self._child: subprocess.Popen[bytes] | None = None
        self._revoked = tuple(sorted(revoked))
        self._listed_at = now

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
        self._stop()

    def revoke(self, serials: Sequence[str], now: float) -> None:
        """Refuse these certificates from now on; open connections of theirs are closed."""
        found = tuple(sorted(serials))
        holds = 0 <= now - self._listed_at + SLACK_S < RENEW_S  # one dated ahead is not valid yet: nobody may connect
        if found == self._revoked and holds:
            return
        self._revoked, self._listed_at = found, now
        self._stop()
        self._start()

    def check(self) -> None:
        """Raise UnreachableError when the child has ended by itself, or could not be started again."""
        if self._child is None or self._child.poll() is not None:
            raise UnreachableError(f"mosquitto ended: {self._last_words()}", subject="broker")

    def _start(self) -> None:
        binary = self._broker.binary()
        if binary is None:
            raise UnreachableError("mosquitto is not installed", subject="broker", hint="apt-get install mosquitto")
        listed = self._authority.revocation_list(self._revoked, self._listed_at)
        (self._folder / "revoked.pem").write_bytes(listed)
        (self._folder / "acl").write_text(access_list(self._broker.prefix))
        (self._folder / "acl").chmod(0o600)
        (self._folder / CONFIGURATION).write_text(self._configuration())
        end_leftover(self._folder)
        with (self._folder / "mosquitto.log").open("ab") as output:
            self._child = subprocess.Popen(
                [binary, "-c", str(self._folder / CONFIGURATION)], stdout=output, stderr=output
            )
        remember(self._folder, self._child.pid)
        self._wait()

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
                "persistence true",
                f"persistence_location {folder}/",
                "autosave_on_changes true",
                "autosave_interval 1",
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


def access_list(prefix: str) -> str:
    """What each identity may do; what is not listed is denied. `%u` is the certificate's common name."""
    hubs = [
        line
        for name in NAMES
        for line in (
            f"user {name}",
            f"topic read {prefix}/up/#",
            f"topic write {prefix}/down/#",
            f"topic write {prefix}/channels/#",
            "",
        )
    ]
    return "\n".join(
        [
            *hubs,
            *(f"pattern write {prefix}/up/+/%u/{leaf}" for leaf in ("status", "report", "telemetry")),
            f"pattern read {prefix}/down/%u/cmd",
            f"pattern read {prefix}/channels/+/notify",
            "",
        ]
    )


def _is_root() -> bool:
    """As root Mosquitto would become the user `mosquitto`, who cannot read the hub's keys."""
    return os.geteuid() == 0
