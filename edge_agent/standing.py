"""How a device stands, from its files alone: what `edge-agent status` shows when no agent answers.

A running agent gives the same fields and adds what only it knows (requests, connection, outbox).
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.update.disk.state import AgentState, Looked, read_state
from edge_agent.update.install import last
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import decode_manifest

if TYPE_CHECKING:
    from edge_agent.identity.enroll import Enrollment


def disk(config: AgentConfig) -> dict[str, int]:
    """Bytes: what releases and downloads occupy, what is free beside them, and what updates must leave free."""
    used = sum(_size(path) for folder in ("blobs", "releases") for path in _files(config.dir / folder))
    return {
        "store_bytes": used,
        "free_bytes": shutil.disk_usage(config.dir).free,
        "reserve_bytes": config.disk_reserve_bytes,
    }


def around(config: AgentConfig) -> dict[str, Any]:
    """What the folder tells beside `state.json`: the disk, and what became of the last bundle."""
    return {"disk": disk(config), "bundle": last(config.dir)}


def state_of(directory: Path) -> AgentState:
    """What `state.json` says; where it is damaged, that it is, and what the identity beside it knows."""
    try:
        return read_state(directory)
    except AgentError as error:
        from edge_agent.identity.certificates import expires_at  # cryptography: slow to load, and seldom needed

        hint = f"{error}; the agent sets it aside when it starts, and looks for everything anew"
        looked = Looked(problem="state-damaged", hint=hint, certificate_expires=expires_at(directory / "identity"))
        return AgentState(looked=looked)


def from_files(config: AgentConfig, state: AgentState, *, running: bool = False) -> dict[str, Any]:
    """The status document of an agent that does not run, or does not answer."""
    looked, enrolled = state.looked, _enrollment(config.dir)
    return {
        "running": running,
        "source": "files",
        "device": enrolled.device_id if enrolled else "",
        "hub": enrolled.hub if enrolled else "",
        "channel": looked.follows(enrolled.channel if enrolled else ""),
        "channel_version": looked.channel.version if looked.channel else 0,
        "broker": {"address": f"{enrolled.mqtt.host}:{enrolled.mqtt.port}"} if enrolled else {},
        "clock": looked.clock,
        "problem": looked.problem,
        "hint": looked.hint,
        "tuf": looked.tuf,
        "tuf_expires": looked.tuf_expires,
        "sandbox": state.sandbox,
        "certificate_expires": looked.certificate_expires,
        **around(config),
        "models": {name: _model(config.dir, model) for name, model in state.models.items()},
    }


def _enrollment(directory: Path) -> Enrollment | None:
    """Whose it is, where this user may read that."""
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


def lines(document: dict[str, Any], directory: Path) -> list[str]:
    """A status document for people."""
    stands = "running" if document.get("running") else "stopped"
    if document.get("source") == "files":
        stands += " and does not answer (yet)" if stands == "running" else ""
        stands += "; this is what its files say"
    said = [f"agent {stands} in {directory}"]
    for key in ("device", "hub", "channel", "channel_version", "address", "online", "clock", "problem", "hint"):
        if document.get(key) not in (None, ""):
            said.append(f"  {key}: {document[key]}")
    said += _broker(document.get("broker") or {})
    if document.get("bundle"):
        found = document["bundle"]
        became = (
            "done" if found["done"] else "; ".join(found[key] for key in ("reason", "detail", "hint") if found[key])
        )
        said.append(f"  latest bundle: {found['folder']}, {_date(found['at'])}: {became}")
    if document.get("certificate_expires"):
        said.append(f"  certificate: until {_date(document['certificate_expires'])}")
    expires = document.get("tuf_expires") or {}
    for role, version in sorted((document.get("tuf") or {}).items()):
        until = f", until {_date(expires[role])}" if role in expires else ""
        said.append(f"  metadata {role}: version {version}{until}")
    if document.get("sandbox"):
        said.append(f"  latest self-test: under {', '.join(document['sandbox'])}")
    if document.get("disk"):
        found = document["disk"]
        said.append(
            f"  disk: {found['store_bytes']} bytes of releases, {found['free_bytes']} free,"
            f" {found['reserve_bytes']} kept free"
        )
    models = document.get("models") or {}
    return said + [f"model {name}: {_one_line(model)}" for name, model in models.items()]


def _broker(found: dict[str, Any]) -> list[str]:
    """How the connection to the broker stands, and what to do where it does not."""
    if not found.get("state"):
        return [f"  broker: {found['address']}"] if found.get("address") else []
    since = f"since {_date(found['since'])}"
    if found["state"] != "failed" and not found["reason"]:
        return [f"  broker: {found['address']}, {found['state']} {since}"]
    tries = f"{found['failures']} times {since}" if found["failures"] > 1 else since
    said = [f"  broker: {found['address']}, {found['reason']} ({tries}): {found['detail']}"]
    return said + ([f"    try: {found['hint']}"] if found["hint"] else [])


def _one_line(model: dict[str, Any]) -> str:
    words = [str(model.get("state", ""))]
    if model.get("serving") is not None:
        words.append(f"serves release {model['serving']} ({model['variant']} on {model['runtime']})")
        words.append(f"{model['requests']} requests, {model['failures']} failed")
        if model.get("refused"):
            words.append(f"{model['refused']} refused")
        if model.get("newly_refused"):
            words.append(f"{model['newly_refused']} of them the release before took: {model['refusal']}")
    elif model.get("active") is not None:
        words.append(f"release {model['active']} ({model.get('active_variant', '')})")
    if model.get("untried"):
        words.append("untried: committed by its self-test, no request has been answered yet")
    if model.get("loading"):
        words.append("is still being loaded")
    if model.get("previous") is not None:
        words.append(f"release {model['previous']} to go back to")
    if model.get("target") is not None:
        words.append(f"moving to release {model['target']}")
    if model.get("progress"):
        words.append(f"{model['progress']:.0%} fetched")
    words += [str(model[key]) for key in ("reason", "detail", "hint") if model.get(key)]
    return ", ".join(words)


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
