"""The uplink with the parts that an agent gives it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edge_agent.mqtt import gobackn
from edge_agent.mqtt.command_receiver import CommandReceiver
from edge_agent.mqtt.command_verification import Verifier, counter_of
from edge_agent.mqtt.link import Link
from edge_agent.mqtt.spool_sender import SpoolSender
from edge_agent.mqtt.status_messages import StatusMessages
from edge_agent.mqtt.trails import Trails
from edge_agent.mqtt.uplink import Uplink
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol.messages import Command, CommandKeys
from fleet.tracing import OFF, Tracer


def make_uplink(
    link: Link,
    database: Database,
    spool: Spool,
    *,
    verify: Callable[[bytes, bytes, bytes], bool],
    key: Callable[[], CommandKeys | None] = lambda: None,
    handle: Callable[[Command], None] = lambda _command: None,
    notified: Callable[[str], Any] = lambda _why: None,
    clock: Callable[[], float] = time.time,
    first_timeout_s: float = gobackn.FIRST_TIMEOUT_S,
    trails: Trails | None = None,
    tracer: Tracer = OFF,
) -> Uplink:
    """An uplink that sends what is in `spool`; see `Uplink`, `CommandReceiver` and `Verifier`."""
    sender = SpoolSender(spool, trails, first_timeout_s=first_timeout_s)
    counter = counter_of(link.device_id, database, spool)
    verifier = Verifier(key, verify, clock=clock)
    commands = CommandReceiver(spool, sender, verifier, handle, counter=counter, tracer=tracer)
    budget = Budget(database, time.time)
    return Uplink(link, sender, commands, budget=budget, statuses=StatusMessages(clock), notified=notified)
