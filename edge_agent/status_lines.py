"""A status document as lines for people."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any


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
            f"  disk: {_size(found['store_bytes'])} of releases, {_size(found['free_bytes'])} free,"
            f" {_size(found['reserve_bytes'])} kept free"
        )
    models = document.get("models") or {}
    return said + [f"model {name}: {_one_line(model)}" for name, model in models.items()]


def _broker(found: dict[str, Any]) -> list[str]:
    """Return the state of the connection to the broker, and the remedy where it fails."""
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


def _size(count: int) -> str:
    """Bytes for people, in decimal units as disks are sold in: `15.7 kB`."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
