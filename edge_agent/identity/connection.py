"""The servers that this device speaks to, and its name there, as its identity on the disk says now.

A file of the identity that is missing or damaged cuts the device off from its hub; it never keeps what is installed
from serving. It is a problem that is shown, and looked at again at every call and after every look.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_agent import VERSION
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError, IdentityError, UnreachableError
from edge_agent.identity.enroll import Enrollment, load_enrollment
from edge_agent.identity.http import HubHttp
from edge_agent.identity.pairs import CERTIFICATE, KEY, finish_replacement
from edge_agent.identity.tls import Dates, client_context
from edge_agent.mqtt.link import Link
from edge_agent.ports import HubCalls, HubResponse, Signer
from edge_agent.update.disk.state import Looked, read_state
from fleet.protocol.messages import MqttEndpoint

log = logging.getLogger(__name__)

CONNECTIONS = 20  # kept: the calls for answers and for audits at once (`serving.cloud`), and the uploader's
NOBODY = Enrollment(hub="", device_id="", channel="", mqtt=MqttEndpoint(host="", port=0, tls=False))


class Links:
    """The ways to the hub of the agent in `config.dir`; `enrollment` is the latest one that could be read.

    Raises:
        IdentityError: this device is not enrolled, and nothing is installed that it could serve.
    """

    def __init__(self, config: AgentConfig, signer: Signer) -> None:
        self._config = config
        self._mark: tuple[Any, ...] = ()
        self._trouble: AgentError | None = None
        self.enrollment = NOBODY
        try:
            self.enrollment = load_enrollment(config.dir)
        except IdentityError:
            if not _serves(config.dir):
                raise
        self.hub = LateHub(
            lambda: HubHttp(
                config.dir,
                connect_timeout_s=config.connect_timeout_s,
                connections=CONNECTIONS,
                clock_slack_s=config.clock_slack_s,
                signer=signer,
            )
        )

    def first(self, looked: Looked) -> Link:
        """The link to begin with; one that leads nowhere while the identity is damaged."""
        nowhere = Link(device_id="", channel="", endpoint=NOBODY.mqtt, heartbeat_s=self._config.heartbeat_s)
        return self.changed(looked) or nowhere

    def changed(self, looked: Looked) -> Link | None:
        """A link, when whom to connect to or as whom is another than at the last call: broker, channel or identity."""
        self.hub.try_again()
        try:
            mark = self._now(looked)
            link = self._link(looked) if mark != self._mark else None
        except AgentError as error:
            log.warning("the connection to the broker stays as it was: %s", error)
            self._trouble = error
            return None
        self._trouble, self._mark = None, mark
        return link

    def problem(self) -> dict[str, str]:
        """The fields `problem` and `hint` of the status document, when the identity is damaged."""
        trouble = self.hub.trouble or self._trouble
        if trouble is None:
            return {}
        return {"problem": trouble.reason, "hint": f"{trouble}; {trouble.hint}" if trouble.hint else str(trouble)}

    def _now(self, looked: Looked) -> tuple[Any, ...]:
        """Return the server to connect to and the identity to use: a value that differs when a new connection is
        due."""
        config = self._config
        enrollment = self.enrollment = load_enrollment(config.dir)
        digest = hashlib.sha256()
        if enrollment.mqtt.tls:
            with _usable():
                finish_replacement(config.identity)
                for name in ("ca.pem", CERTIFICATE, KEY):
                    digest.update((config.identity / name).read_bytes())
        return enrollment.device_id, looked.follows(enrollment.channel), enrollment.mqtt, digest.digest()

    def _link(self, looked: Looked) -> Link:
        config, enrollment = self._config, self.enrollment
        context = None
        if enrollment.mqtt.tls:
            with _usable():
                context = _tls(config)
        return Link(
            device_id=enrollment.device_id,
            channel=looked.follows(enrollment.channel),
            endpoint=enrollment.mqtt,
            context=context,
            agent=VERSION,
            heartbeat_s=config.heartbeat_s,
            traced=bool(config.tracing.endpoint),
        )


class LateHub:
    """Implements `ports.HubCalls` by the hub that `make` gives, as soon as the identity allows one."""

    def __init__(self, make: Callable[[], HubCalls]) -> None:
        self._make = make
        self._hub: HubCalls | None = None
        self._lock = threading.Lock()
        self.trouble: AgentError | None = None
        self.try_again()

    def try_again(self) -> None:
        """Find out whether the identity allows a hub by now; `trouble` says why not."""
        with contextlib.suppress(UnreachableError):
            self._made()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> HubResponse:
        """See the port. UnreachableError, and nothing leaves the device, while its identity is damaged."""
        return self._made().request(method, path, body, headers, timeout)

    def _made(self) -> HubCalls:
        with self._lock:
            if self._hub is None:
                try:
                    self._hub = self._make()
                except AgentError as error:
                    self.trouble = error
                    raise UnreachableError(f"the hub is not asked: {error}", hint=error.hint) from error
                self.trouble = None
            return self._hub


def _serves(directory: Path) -> bool:
    """Return whether a release is installed."""
    try:
        return any(model.active is not None for model in read_state(directory).models.values())
    except AgentError:
        return False


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise IdentityError(
            f"the broker wants a certificate, and the one of this device cannot be used: {error}",
            reason="bad-certificate",
            hint="the next look at the hub renews it; if it does not, enrol again",
        ) from error


def _tls(config: AgentConfig) -> Any:
    dates, identity = Dates(config.dir, slack_s=config.clock_slack_s), config.identity
    return client_context(identity / "ca.pem", dates, certificate=identity / CERTIFICATE, key=identity / KEY)
