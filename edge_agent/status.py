"""The status document of a device, from its files or from the agent that runs: assembled here and nowhere else.

`of_files` is what `edge-agent status` shows when no agent answers. `of_agent` has the same fields, and what only the
process knows (requests, connection, outbox).
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edge_agent import VERSION
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.update.disk.state import AgentState, Looked, read_state
from edge_agent.update.install import last
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.messages import AgentReport

if TYPE_CHECKING:
    from edge_agent.host.vitals import VitalSigns
    from edge_agent.identity.connection import Links
    from edge_agent.identity.enroll import Enrollment
    from edge_agent.mqtt.uplink import Uplink
    from edge_agent.serving.audit import Auditor
    from edge_agent.serving.slots import Slots
    from edge_agent.shadow.runner import Shadows
    from edge_agent.telemetry.budget import Budget
    from edge_agent.telemetry.database import Database
    from edge_agent.telemetry.local_draws import LocalDraws
    from edge_agent.telemetry.samples import SampleStore
    from edge_agent.telemetry.spool import Spool
    from edge_agent.update.updater import Updater


class RunningAgent(Protocol):
    """The parts of an agent that its status tells of; `started` is in Unix seconds."""

    config: AgentConfig
    started: float
    addresses: list[str]
    links: Links
    uplink: Uplink
    updater: Updater
    slots: Slots
    shadows: Shadows
    vitals: VitalSigns
    database: Database
    spool: Spool
    samples: SampleStore
    budget: Budget
    auditor: Auditor
    draws: LocalDraws


def disk(config: AgentConfig) -> dict[str, int]:
    """Bytes: what releases and downloads occupy, what is free beside them, and what updates must leave free."""
    used = sum(_size(path) for folder in ("blobs", "releases") for path in _files(config.dir / folder))
    return {
        "store_bytes": used,
        "free_bytes": shutil.disk_usage(config.dir).free,
        "reserve_bytes": config.disk_reserve_bytes,
    }


def around(config: AgentConfig) -> dict[str, Any]:
    """Return the facts that the folder holds beside `state.json`: the disk, and the result of the last bundle."""
    return {"disk": disk(config), "bundle": last(config.dir)}


def state_of(directory: Path) -> AgentState:
    """Read `state.json`; of a damaged one return that it is, and the facts that the identity beside it tells."""
    try:
        return read_state(directory)
    except AgentError as error:
        from edge_agent.identity.certificates import expires_at  # cryptography: slow to load, and seldom needed

        hint = f"{error}; the agent sets it aside when it starts, and looks for everything anew"
        looked = Looked(problem="state-damaged", hint=hint, certificate_expires=expires_at(directory / "identity"))
        return AgentState(looked=looked)


def of_files(config: AgentConfig, state: AgentState, *, running: bool = False) -> dict[str, Any]:
    """Return the status document of an agent that does not run, or does not answer."""
    looked, enrolled = state.looked, _enrollment(config.dir)
    return {
        "running": running,
        "source": "files",
        "device": enrolled.device_id if enrolled else "",
        "hub": enrolled.hub if enrolled else "",
        **looked.shown(enrolled.channel if enrolled else ""),
        "broker": {"address": f"{enrolled.mqtt.host}:{enrolled.mqtt.port}"} if enrolled else {},
        "sandbox": state.sandbox,
        **around(config),
        "models": {name: _model(config.dir, model) for name, model in state.models.items()},
    }


def of_agent(agent: RunningAgent) -> dict[str, Any]:
    """Return the status of a running agent: its identity, the serving releases, the work under way, its problems."""
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
        "models": _served(agent),
    }


def _served(agent: RunningAgent) -> dict[str, Any]:
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


def _enrollment(directory: Path) -> Enrollment | None:
    """Return the enrollment, where this user may read it."""
    from edge_agent.identity.enroll import load_enrollment

    with contextlib.suppress(AgentError, OSError):
        return load_enrollment(directory)
    return None


def _model(directory: Path, state: ModelState) -> dict[str, Any]:
    """The fields of `messages.ModelReport` that the disk knows."""
    rollout = state.target.rollout if state.target else state.about or state.pairing
    return {
        "state": state.state,
        "target": state.target.held.release if state.target else None,
        "active": state.active.release if state.active else None,
        "active_variant": state.active.variant if state.active else "",
        "previous": state.previous.release if state.previous else None,
        "rollout": rollout.id if rollout else "",
        "progress": _progress(directory, state),
        "reason": state.reason,
        "detail": state.detail,
        "hint": state.hint,
        "untried": state.untried,
    }


def _progress(directory: Path, state: ModelState) -> float:
    """The share in [0, 1] of the wanted release's bytes that are here; 0 without a target."""
    if state.target is None:
        return 0.0
    held = state.target.held
    try:
        manifest = decode_manifest((directory / "releases" / f"{held.manifest}.json").read_bytes())
        blobs = manifest.needed_for(manifest.variant(held.variant))
    except (OSError, ProtocolError):
        return 0.0  # the manifest is fetched again with the rest
    paths = [(directory / "blobs" / blob.sha256, blob.size) for blob in blobs]
    here = sum(min(size, max(_size(path), _size(path.with_name(path.name + ".part")))) for path, size in paths)
    return here / (sum(size for _, size in paths) or 1)


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # collected, or not there yet
        return 0


def described(channel: str, looked: Looked, runtimes: dict[str, str], capabilities: tuple[str, ...]) -> AgentReport:
    """Make the report of what the device is.

    Args:
        channel: its name, as the device follows it.
        looked: what the last look at the hub gave.
        runtimes: the installed ones, version by distribution.
        capabilities: what manifests and channels may require of this agent.
    """
    return AgentReport(
        agent=VERSION,
        channel=channel,
        capabilities=capabilities,
        hardware={"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
        runtimes=runtimes,
        channel_version=looked.channel.version if looked.channel is not None else 0,
        tuf=looked.tuf,
        tuf_expires=looked.tuf_expires,
        clock="trusted" if looked.clock == "trusted" else "untrusted",
        problem=looked.problem,
        hint=looked.hint,
    )
