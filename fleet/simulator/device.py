"""One simulated device. Pure: what it hears and when in, what it sends and when it looks out; no socket, no clock.

`now` counts seconds from the simulation's start. The update rules are the agent's own (`edge_agent.update.rules`),
and so are the numbered records that are sent again until the hub's receipt (`edge_agent.mqtt.gobackn`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from edge_agent.errors import DeniedError
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt.command_verification import accept
from edge_agent.ports import Health
from edge_agent.update.rules import machine
from edge_agent.update.rules.model_state import ModelState, Target
from edge_agent.update.rules.probation import judged
from fleet.protocol import topics
from fleet.protocol.channel import Channel, RolloutRef
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
from fleet.protocol.resolve import resolve, shadows, spread_delay
from fleet.protocol.shadow import CAPABILITY as SHADOW
from fleet.simulator import traffic
from fleet.simulator.hostile import hostile_message
from fleet.simulator.outbox import NEVER, Counts, Outbox, Send
from fleet.simulator.profiles import Profile, randomness
from fleet.simulator.view import View

AGENT = "simulated"
HEARTBEAT_S, POLL_S, JUDGE_S = 30.0, 900.0, 1.0
AGAIN_S = 1.5  # after a view that is older than the notice: when its host shares it no longer
CRASHED_S = 3.0  # that a release which crashes the agent takes to be given up


@dataclass
class _Model:
    """A model's machine, when its next step is due, since when the active release serves, its open window, and the
    rollout whose release runs beside it."""

    state: ModelState = field(default_factory=ModelState)
    due: float = NEVER
    since: float = 0.0
    opened: float = 0.0
    shadowed: RolloutRef | None = None


class Device:
    """Call `wake` whenever `wakes_at` has come; every method returns what is to be published."""

    def __init__(
        self,
        device_id: str,
        channel: str,
        profile: Profile,
        counts: Counts,
        *,
        prefix: str,
        seed: int,
        started: float,
        shadows: bool = True,
    ) -> None:
        """`shadows`: its agent can run a release beside the one that serves."""
        self.id, self.channel, self.profile, self.counts = device_id, channel, profile, counts
        self._shadows = shadows
        self._prefix, self._started = prefix, started
        self._rng = randomness(f"{seed}:{device_id}")
        self._session, spool = (self._rng.bytes(8).hex() for _ in range(2))
        self._outbox = Outbox(device_id, prefix, f"{spool}{int(started):x}", counts)  # another one in each run
        self._counter = 0
        self._view: View | None = None
        self._models: dict[str, _Model] = {}
        self._beat = NEVER
        self._hostile_at = self._gap(0.0)
        self._look_at, self._looking = 0.0, False
        self._noticed = 0  # the channel's version that the last notice named
        self._resting = False

    @property
    def online(self) -> bool:
        """Whether the broker has accepted it."""
        return self._outbox.online

    @property
    def waiting(self) -> int:
        """Records without a receipt."""
        return len(self._outbox)

    @property
    def settled(self) -> bool:
        """Whether it has seen the channel, has no step of an update before it, and waits for no receipt."""
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
        """What the broker says when the connection is lost."""
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
            command = accept(
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
            self._follow(name, view, me, now)
        return self._sends(now)

    def not_looked(self, now: float, pause_s: float) -> None:
        """The look failed; the next one comes after a pause."""
        self._looking = False
        self._look_at = min(self._look_at, now + pause_s * (0.5 + self._rng.random()))

    def begins_look(self, now: float) -> bool:
        """Whether it is time to look; then `looked` or `not_looked` must follow, and no other look begins before."""
        if not self.online or self._looking or now < self._look_at:
            return False
        self._looking, self._look_at = True, NEVER
        self.counts.looks += 1
        return True

    def wakes_at(self) -> float:
        """When `wake` or `begins_look` has something to do."""
        due = min((model.due for model in self._models.values()), default=NEVER)
        measured = [model for model in self._models.values() if model.state.active is not None and not self._resting]
        opened = min((model.opened for model in measured), default=NEVER)
        look = self._look_at if self.online and not self._looking else NEVER
        hostile = self._hostile_at if self.online else NEVER
        return min(due, opened + self._window_s, self._beat, self._outbox.again_at, hostile, look)

    def wake(self, now: float) -> list[Send]:
        """Do what is due: a step of an update, a window, a heartbeat, what is sent again."""
        for name, model in self._models.items():
            while model.due <= now:
                self._step(name, model, now)
            if model.state.active is not None and now - model.opened >= self._window_s and not self._resting:
                self._close(name, model, now)
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

    # ---- updates -----------------------------------------------------------------------------------

    def _follow(self, name: str, view: View, me: DeviceMe, now: float) -> None:
        model = self._models.setdefault(name, _Model())
        target = resolve(
            view.channel,
            name,
            self.id,
            groups=frozenset(me.groups),
            pin=me.pins.get(name),
            committed=model.state.committed,
        )
        assert target is not None  # the model is on the channel
        self._shadow(name, model, view, me, now)
        facts = view.releases.get((name, target.release))
        if facts is None:
            word, detail = view.refused.get((name, target.release), ("unsigned", "nobody named this release"))
            self._enter(name, model, machine.noted(model.state, word, detail, about=target.rollout), now)
            return
        entry = view.channel.models[name]
        new = machine.wanted(model.state, Target(held=facts.held, rollout=target.rollout), entry.probation)
        if new is None:
            return
        if new.active != model.state.active or new.pairing != model.state.pairing:
            self._close(name, model, now)
        self._enter(name, model, new, now)
        model.due = now + facts.bytes / self.profile.bytes_per_s if new.state == "fetching" else NEVER

    def _shadow(self, name: str, model: _Model, view: View, me: DeviceMe, now: float) -> None:
        """Run the release of a shadow stage beside what serves, or stop that."""
        wanted = shadows(
            view.channel,
            name,
            self.id,
            groups=frozenset(me.groups),
            pin=me.pins.get(name),
            committed=model.state.committed,
        )
        if wanted is not None and (not self._shadows or (name, wanted.release) not in view.releases):
            wanted = None
        if wanted != model.shadowed:
            self._close(name, model, now)
            model.shadowed = wanted

    def _step(self, name: str, model: _Model, now: float) -> None:
        state, model.due = model.state, NEVER
        if state.state == "fetching":
            self._enter(name, model, machine.verifying(state), now)
            self._enter(name, model, machine.trying(model.state), now)
            if model.state.state != "trying":  # given up after too many tries
                return
            self._close(name, model, now)
            self._enter(name, model, machine.activated(model.state), now)
            model.since = model.opened = now
            model.due = now + (CRASHED_S if self._crashes(model.state) else JUDGE_S)
        elif state.state == "probation":
            self._judge(name, model, now)

    def _judge(self, name: str, model: _Model, now: float) -> None:
        state = model.state
        if self._crashes(state):
            detail = f"the agent started {state.probation.max_starts + 1} times while probation"
            new: ModelState | None = machine.rolled_back(state, "crash-loop", detail, "its profile says so")
        else:
            served = now - model.since
            requests = int(served * self.profile.requests_per_s)
            failures = int(requests * self.profile.failing) if state.pairing is not None else 0
            new = judged(state, Health(requests=requests, failures=failures), served)
        if new is None:
            model.due = now + JUDGE_S
            return
        self._close(name, model, now)
        self._enter(name, model, new, now)
        self._look_at = min(self._look_at, now)  # a committed default may enter a rollout

    def _crashes(self, state: ModelState) -> bool:
        return self.profile.crash_loop and state.pairing is not None

    def _enter(self, name: str, model: _Model, new: ModelState, now: float) -> None:
        if new != model.state:
            model.state = new
            version = self._channel.version if self._channel else 0
            self._record("model", machine.reported(name, new, version), now)

    # ---- what it tells -----------------------------------------------------------------------------

    @property
    def _channel(self) -> Channel | None:
        return self._view.channel if self._view is not None else None

    @property
    def _window_s(self) -> float:
        return self._channel.telemetry.window_s if self._channel is not None else NEVER

    def _close(self, name: str, model: _Model, now: float) -> None:
        """Close the open window of what serves."""
        opened, model.opened = model.opened, now
        held = model.state.active
        if held is None or self._view is None or (name, held.release) not in self._view.releases:
            return
        facts, entry = self._view.releases[name, held.release], self._view.channel.models.get(name)
        running = traffic.Running(
            model=name,
            release=held.release,
            variant=held.variant,
            classes=facts.classes,
            sketch_id=facts.sketch_id,
            features=facts.features,
            rollout=model.state.pairing,
            shadowed=model.shadowed,
            auditor=entry.audit.auditor if entry is not None else None,
            audit_share=entry.audit.share_ppm / 1e6 if entry is not None else 0.0,
        )
        found = traffic.window(
            running, self.profile, self._rng, started=self.clock(opened), ended=self.clock(now), elapsed_s=now
        )
        if found is not None:
            self._record("window", found, now)

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
        """When the next hostile message comes."""
        rate = self.profile.hostile_per_s
        return after + float(self._rng.exponential(1.0 / rate)) if rate else NEVER
