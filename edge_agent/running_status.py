"""The `/status` document of an agent that runs: what `standing` says of its folder, and what only the process knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent import VERSION
from edge_agent.standing import around

if TYPE_CHECKING:
    from edge_agent.agent import Agent


def document(agent: Agent) -> dict[str, Any]:
    """Who, what serves, what is under way, and why not."""
    return {
        **agent.updater.status(),
        **agent.links.problem(),
        "device": agent.links.enrollment.device_id,
        "agent": VERSION,
        "pid": os.getpid(),  # the same as in run.json, by which this agent is told from others
        "hub": agent.links.enrollment.hub,
        "address": agent.addresses[0] if agent.addresses else "",
        "addresses": agent.addresses,
        "online": agent.uplink.online,
        "broker": agent.uplink.connection.document(),
        **around(agent.config),
        "vitals": msgspec.to_builtins(agent.vitals.read()),
        "certificate_expires": agent.updater.file.state.looked.certificate_expires,
        "started": agent.started,
        "outbox": {
            "spool": agent.spool.id,
            "waiting": len(agent.spool),
            "lost": agent.spool.lost,
            "problem": agent.database.refusal,
        },
        "samples": {"waiting": len(agent.samples), "dropped": agent.samples.dropped},
        "audits_dropped": agent.auditor.dropped,
        "local_draws": agent.draws.counts,
        "beside": agent.shadows.document(),
        "bytes": {"up": agent.budget.up, "down": agent.budget.down},
        "models": _models(agent),
    }


def _models(agent: Agent) -> dict[str, Any]:
    models: dict[str, Any] = msgspec.to_builtins(agent.updater.status()["models"])
    for name in agent.slots.names():
        slot = agent.slots.slot(name)
        if slot is None or slot.active is None:
            continue
        served = slot.active
        models.setdefault(name, {}).update(
            serving=served.release.number,
            variant=served.release.variant.name,
            runtime=served.runtime,
            requests=served.requests,
            failures=served.failures,
            refused=served.refused,
            newly_refused=served.newly_refused,
            refusal=served.refusal,
            shadow=slot.previous.release.number if slot.previous is not None else None,
        )
    for name in agent.updater.loading:
        models.setdefault(name, {})["loading"] = True
    return models
