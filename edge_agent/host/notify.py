"""Messages to the service manager, by the protocol of sd_notify(3): the agent serves, and it still moves.

systemd's watchdog sees what nothing inside the process can: native code of a model that hangs and holds the
interpreter's lock, so that no Python thread runs, the agent's own watchdog included. It ends such a process by a
signal that makes it write its traces, and starts another.
"""

from __future__ import annotations

import logging
import socket

log = logging.getLogger(__name__)

START_S = 90  # after each sign of life, for a start to go on


class ServiceManager:
    """At the other end of a socket, named as in `NOTIFY_SOCKET`; nobody when that is empty."""

    def __init__(self, address: str) -> None:
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._serves = self._refused = False

    @property
    def there(self) -> bool:
        """True if a service manager listens."""
        return bool(self._address)

    def ready(self) -> None:
        """The agent serves."""
        self._serves = True
        self._tell("READY=1")

    def alive(self) -> None:
        """The event loop moves. A start may go on as long as it does."""
        self._tell("WATCHDOG=1" if self._serves else f"EXTEND_TIMEOUT_USEC={START_S * 1_000_000}")

    def stopping(self) -> None:
        """The agent ends because it was asked to."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as to:
                to.sendto(state.encode(), self._address)
            self._refused = False
        except OSError as error:
            if not self._refused:
                log.warning("the service manager is not told %s: %s", state, error)
            self._refused = True
