"""The connection to the broker as people see it, and paho's client, which keeps to itself why it failed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge_agent.mqtt.troubles import Trouble, where
from fleet import mqtt
from fleet.protocol.messages import MqttEndpoint

log = logging.getLogger(__name__)
AGAIN_S = 3600.0  # until a reason that persists is logged again


class Connection:
    """The state of the connection, for `status` and the log. Each reason is logged when it comes up, and every hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._endpoint = MqttEndpoint(host="", port=0, tls=False)
        self._trouble: Trouble | None = None
        self._state, self._since, self._failures, self._said_at = "connecting", clock(), 0, 0.0

    def begin(self, endpoint: MqttEndpoint) -> None:
        """Attempts go to `endpoint` from now on."""
        if endpoint != self._endpoint:
            self._endpoint, self._trouble, self._failures = endpoint, None, 0
            self._state, self._since = "connecting", self._clock()

    def made(self, lacks: Trouble | None = None) -> None:
        """The broker accepted this device; `lacks` is what it does not let it do."""
        log.info("connected to the broker at %s", self._where())
        self._state, self._since, self._failures = "connected", self._clock(), 0
        self._trouble = None
        if lacks is not None:
            self._say("the connection to the broker at %s lacks something: %s", lacks)

    def failed(self, trouble: Trouble) -> None:
        """An attempt failed, or the connection is gone."""
        now = self._clock()
        if self._state != "failed":
            self._state, self._since = "failed", now
        self._failures += 1
        self._say("no connection to the broker at %s: %s", trouble)

    def _say(self, text: str, trouble: Trouble) -> None:
        now = self._clock()
        if trouble != self._trouble or not 0 <= now - self._said_at < AGAIN_S:
            self._said_at = now
            said = f"{trouble.reason}: {trouble.detail}" + (f"; {trouble.hint}" if trouble.hint else "")
            log.warning(text, self._where(), said)
        self._trouble = trouble

    def document(self) -> dict[str, Any]:
        """The field `broker` of the status document: `state` is connecting, connected or failed, `since` when."""
        trouble = self._trouble or Trouble("", "")
        return {
            "address": self._where(),
            "state": self._state,
            "since": self._since,
            "failures": self._failures,
            "reason": trouble.reason,
            "detail": trouble.detail,
            "hint": trouble.hint,
        }

    def _where(self) -> str:
        return where(self._endpoint)


class PahoClient(mqtt.Client):
    """A client that says why it could not connect, also to `on_failure`, on its own thread."""

    on_failure: Callable[[Exception], None] | None = None

    def reconnect(self) -> Any:
        """See paho's; what is not paho's kind of failure becomes one, and ends no thread."""
        try:
            return super().reconnect()
        except (OSError, ValueError) as error:  # ValueError: a name that cannot even be looked up
            if self.on_failure is not None:
                self.on_failure(error)
            if isinstance(error, OSError):
                raise
            raise OSError(str(error)) from error
