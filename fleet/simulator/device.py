"""One simulated device. Pure: what it hears and when in, what it sends and when it looks out; no socket, no clock.

`now` counts seconds from the simulation's start. The update rules are the agent's own (`edge_agent.update.rules`),
and so are the numbered records that are sent again until the hub's receipt (`edge_agent.mqtt.gobackn`).
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from edge_agent.errors import DeniedError
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt.command_verification import verified_command
from fleet.protocol import topics
from fleet.protocol.channel import Channel
from fleet.protocol.codec import encode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import (
    AgentReport,
    Command,
    CommandResult,
    DeviceMe,
    Notify,
    Receipt,
    Status,
    decode_control,
)
from fleet.protocol.resolve import spread_delay
from fleet.protocol.shadow import CAPABILITY as SHADOW
from fleet.simulator.hostile import hostile_message
from fleet.simulator.outbox import NEVER, Counts, Outbox, Send
from fleet.simulator.profiles import DeviceProfile, randomness
from fleet.simulator.simulated_model import SimulatedModel
from fleet.simulator.view import View

AGENT = "simulated"
HEARTBEAT_S, POLL_S = 30.0, 900.0
AGAIN_S = 1.5  # after a view that is older than the notice: when its host shares it no longer


class Enrolled(NamedTuple):
    """The facts that a device keeps of its enrolment: its id, its channel, and the prefix of the hub's topics."""

    id: str
    channel: str
    prefix: str


class SimulatedDevice:
    """Call `wake` whenever `wakes_at` has come; every method returns what is to be published."""

    def __init__(
        self,
        enrolled: Enrolled,
        profile: DeviceProfile,
        counts: Counts,
        *,
        seed: int,
        started: float,
        shadows: bool = True,
    ) -> None:
        """`shadows`: its agent can run a release beside the one that serves."""
        self.id, self.channel, self._prefix = enrolled
        self.profile, self.counts = profile, counts
        self._shadows, self._started = shadows, started
        self._rng = randomness(f"{seed}:{self.id}")
        self._session, spool = (self._rng.bytes(8).hex() for _ in range(2))
        self._outbox = Outbox(self.id, self._prefix, f"{spool}{int(started):x}", counts)  # another one in each run
        self._counter = 0
        self._view: View | None = None
        self._models: dict[str, SimulatedModel] = {}
        self._beat = NEVER
        self._hostile_at = self._gap(0.0)
        self._look_at, self._looking = 0.0, False
        self._noticed = 0  # the channel's version that the last notice named
        self._resting = False

    @property
    def online(self) -> bool:
        """True once the broker has accepted it."""
        return self._outbox.online

    @property
    def waiting(self) -> int:
        """Records without a receipt."""
        return len(self._outbox)

    @property
    def settled(self) -> bool:
        """True if it has seen the channel, has no step of an update before it, and waits for no receipt."""
        under_way = any(model.due < NEVER for model in self._models.values())
        return self._view is not None and not (under_way or self._looking or self.waiting)

    def rest(self) -> None:
        """Measure nothing more: no window, nothing hostile. What is under way goes on, and what waits is sent."""
        self._resting, self._hostile_at = True, NEVER

    def active(self, model: str) -> int | None:
        """The release that serves."""
        found = self._models.get(model)
        return found.state.active.release if found is not None and found.state.active is not None else None

    @property
    def models(self) -> list[str]:
        """The models that its channel has named."""
        return list(self._models)

    def clock(self, now: float) -> float:
        """Unix seconds by the device's own clock."""
        return self._started + now + self.profile.clock_ahead_s

    def will(self) -> Send:
        """Return the message that the broker sends when the connection is lost."""
        return Send(self._topic("status"), self._status("lost", 0.0))

    # ---- what happens to it ------------------------------------------------------------------------

    def connected(self, now: float) -> list[Send]:
        """The broker accepted it: it says so, sends again what has no receipt, and looks."""
        self._outbox.connected(now)
        self._beat = now
        self._look_at = min(self._look_at, now)
        return self.wake(now)

    def disconnected(self) -> None:
        """The connection is gone."""
        self._outbox.disconnected()
        self._beat = NEVER

    def heard(self, topic: str, payload: bytes, now: float) -> list[Send]:
        """A message from the broker. What is not the hub's is counted as refused."""
        try:
            if topic == topics.notify(self.channel, self._prefix):
                notify: Notify = decode_control(payload, Notify)
                self._noticed = max(self._noticed, notify.version)
                self._look_at = min(self._look_at, now + spread_delay(notify.version, self.id, notify.spread_s))
                return []
            keys = self._view.keys if self._view is not None else None
            command = verified_command(
                payload,
                keys,
                verify=signed_by,
                device=self.id,
                counter=self._counter,
                now=self.clock(now),
                clock_trusted=not self.profile.clock_ahead_s,
            )
            self._counter = command.counter
            self._obey(command, now)
        except (DeniedError, ProtocolError, msgspec.ValidationError):
            self.counts.refused += 1
        return self._sends(now)

    def looked(self, view: View, me: DeviceMe, now: float) -> list[Send]:
        """It has seen the channel, and what the hub says of itself: every model begins to move where it should be."""
        if self._view is None:
            self._record("agent", self._about(view), now)
        self._view = view
        self._looking = False
        self._look_at = min(self._look_at, now + POLL_S * (0.9 + 0.2 * self._rng.random()))
        if view.channel.version < self._noticed:  # fetched before the notice; once, since anybody may have sent it
            self._look_at = now + AGAIN_S
        self._noticed = 0
        for name in view.channel.models:
            self._model(name).follow(view, me, now, may_shadow=self._shadows)
        return self._sends(now)

    def not_looked(self, now: float, pause_s: float) -> None:
        """The look failed; the next one comes after a pause."""
        self._looking = False
        self._look_at = min(self._look_at, now + pause_s * (0.5 + self._rng.random()))

    def begins_look(self, now: float) -> bool:
        """Tell whether it is time to look; then `looked` or `not_looked` must follow, and no other look begins
        before it."""
        if not self.online or self._looking or now < self._look_at:
            return False
        self._looking, self._look_at = True, NEVER
        self.counts.looks += 1
        return True

    def wakes_at(self) -> float:
        """Return the moment at which `wake` or `begins_look` has something to do."""
        due = min((model.due for model in self._models.values()), default=NEVER)
        measured = [model for model in self._models.values() if model.state.active is not None and not self._resting]
        opened = min((model.opened for model in measured), default=NEVER)
        look = self._look_at if self.online and not self._looking else NEVER
        hostile = self._hostile_at if self.online else NEVER
        return min(due, opened + self._window_s, self._beat, self._outbox.again_at, hostile, look)

    def wake(self, now: float) -> list[Send]:
        """Do what is due: a step of an update, a window, a heartbeat, what is sent again."""
        for model in self._models.values():
            while model.due <= now:
                if model.step(self._view, now):
                    self._look_at = min(self._look_at, now)  # a committed default may enter a rollout
            if model.state.active is not None and now - model.opened >= self._window_s and not self._resting:
                model.close(self._view, now)
        found = self._sends(now)
        if self.online and self._beat <= now:
            self._beat = now + HEARTBEAT_S
            if not self._silent(now):
                found.insert(0, Send(self._topic("status"), self._status("online", now)))
        while self.online and self._hostile_at <= now:
            self._hostile_at = self._gap(self._hostile_at)
            self.counts.hostile += 1
            found.append(Send(*hostile_message(self._rng, self.id, self._outbox.id, self._outbox.top, self._prefix)))
        return found

    # ---- what it tells -----------------------------------------------------------------------------

    def _model(self, name: str) -> SimulatedModel:
        known = self._models.get(name)
        if known is None:
            known = self._models[name] = SimulatedModel(
                name, self.id, self.profile, self._rng, self._record, self.clock
            )
        return known

    @property
    def _channel(self) -> Channel | None:
        return self._view.channel if self._view is not None else None

    @property
    def _window_s(self) -> float:
        return self._channel.telemetry.window_s if self._channel is not None else NEVER

    def _record(self, kind: str, body: msgspec.Struct, now: float) -> None:
        if self._silent(now):
            return
        self._outbox.add(kind, body, at=self.clock(now), now=now)

    def _sends(self, now: float) -> list[Send]:
        return self._outbox.due(now, self._rng, self.profile.duplicates)

    def _obey(self, command: Command, now: float) -> None:
        self.counts.commands += 1
        if command.kind == "receipt":
            self._outbox.receipt(msgspec.convert(command.args, Receipt), now)
            return
        known = command.kind == "diagnose"
        detail = "" if known else f"a simulated device does not do {command.kind!r}"
        data = {"simulated": True} if known else {}
        self._record("result", CommandResult(id=command.id, ok=known, kind=command.kind, data=data, detail=detail), now)

    def _silent(self, now: float) -> bool:
        return 0 < self.profile.silent_after_s <= now

    def _about(self, view: View) -> AgentReport:
        can = tuple(name for name in view.capabilities if name != SHADOW or self._shadows)
        return AgentReport(
            agent=AGENT,
            channel=self.channel,
            hardware={"machine": "simulated"},
            capabilities=can,
            channel_version=view.channel.version,
            tuf=view.tuf,
            tuf_expires=view.tuf_expires,
        )

    def _status(self, state: str, now: float) -> bytes:
        return encode_json(
            Status(state=state, session=self._session, at=self.clock(now), agent=AGENT, instance=self._session)  # type: ignore[arg-type]
        )

    def _topic(self, leaf: topics.Leaf) -> str:
        return topics.uplink(self.id, leaf, self._prefix)

    def _gap(self, after: float) -> float:
        """Return the moment of the next hostile message."""
        rate = self.profile.hostile_per_s
        return after + float(self._rng.exponential(1.0 / rate)) if rate else NEVER
