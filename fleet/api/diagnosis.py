"""The faults of a device, each with its cause and remedy, from the hub's facts and the device's own report. Pure.

A device's own word is a free document, of whatever version, and may be anything: each value counts only where it has
the type that it should have, and text is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fleet.api.vitals import ill_of

if TYPE_CHECKING:
    from fleet.api.devices import DeviceDetail, DeviceModelInfo

TEXT = 500  # characters that are shown of a device's sentence
MODELS = 256  # of one device, as many as its hub keeps
SOON_S = 7 * 86_400.0  # before its end a certificate has long been renewed where all is well


class Finding(NamedTuple):
    """A symptom, its cause and the remedy; the latter two may be empty."""

    what: str
    why: str = ""
    todo: str = ""


def findings(device: DeviceDetail, said: Mapping[str, Any], now: float) -> list[Finding]:
    """Return a device's faults, the hub's own findings first; each is named once.

    Args:
        device: what the hub knows.
        said: the device's answer to `diagnose`; empty where there is none.
        now: Unix seconds.
    """
    found: dict[str, Finding] = {}
    for finding in (*_of_hub(device, now), *_of_device(device.id, said, now)):
        found.setdefault(finding.what, finding)
    return list(found.values())


def untold(said: Mapping[str, Any]) -> list[str]:
    """Models of which nothing tells whether they answer well: no request has come since the agent began."""
    models = _models(said)
    return [name for name, model in models.items() if "serving" in model and not _number(model.get("requests"))]


def _of_hub(device: DeviceDetail, now: float) -> Iterator[Finding]:
    if device.problem:
        yield Finding(_problem(device.problem), "", _text(device.hint))
    if device.info.problem:
        yield Finding(_problem(device.info.problem), "", _text(device.info.hint))
    yield from (Finding(*ill) for ill in ill_of(device.vitals, now))
    yield from _certificate(device.certificate_expires_at, now)
    for model, held in device.held_back.items():
        keeps = f"release {held.release}" if held.release else "what it has"
        why = f"it lacks {', '.join(held.lacks)}; it keeps {keeps}"
        yield Finding(f"model {model}: release {held.offered} is held back", why, "update the agent")
    for known in device.models:
        yield from _model_report(device.id, known)
    if device.set_aside:
        what = f"{device.set_aside} of its messages could not be taken"
        yield Finding(what, "", f"fleet device set-aside {device.id}")


def _model_report(device: str, known: DeviceModelInfo) -> Iterator[Finding]:
    if known.reason:
        yield Finding(f"model {known.model}: {_text(known.reason)}", _text(known.detail), _text(known.hint))
    if known.active is None and known.state in ("idle", "rolled_back"):
        yield Finding(f"model {known.model}: no release is active", "", f"fleet channel explain {device}")


def _of_device(name: str, said: Mapping[str, Any], now: float) -> Iterator[Finding]:
    if problem := _text(said.get("problem")):
        yield Finding(_problem(problem), "", _text(said.get("hint")))
    if _text(said.get("clock")) not in ("", "trusted"):
        why = "it cannot tell whether signed metadata has expired"
        yield Finding("its clock is not trusted", why, "set the device's clock, or let it reach a time server")
    yield from _certificate(_number(said.get("certificate_expires")), now)
    for role, expires in list(_part(said.get("tuf_expires")).items())[:MODELS]:
        if 0 < _number(expires) < now:
            what = f"its signed metadata {_text(role)!r} has expired"
            yield Finding(what, "it follows no change of the channel", "is the hub's clock right, and does it sign?")
    yield from _broker(_part(said.get("broker")))
    yield from _store(_part(said.get("disk")), _part(said.get("outbox")), _part(said.get("samples")))
    bundle = _part(said.get("bundle"))
    if reason := _text(bundle.get("reason")):
        yield Finding(f"its last bundle: {reason}", _text(bundle.get("detail")), _text(bundle.get("hint")))
    for model, stands in _models(said).items():
        yield from _model(name, model, stands)


def _broker(broker: Mapping[str, Any]) -> Iterator[Finding]:
    if _text(broker.get("state")) == "failed":
        reason = _text(broker.get("reason")) or "failed"
        yield Finding(f"its connection to the broker: {reason}", _text(broker.get("detail")), _text(broker.get("hint")))


def _store(disk: Mapping[str, Any], outbox: Mapping[str, Any], samples: Mapping[str, Any]) -> Iterator[Finding]:
    free, reserve = _number(disk.get("free_bytes")), _number(disk.get("reserve_bytes"))
    if disk and free < reserve:
        what = f"its disk is full: {free:.0f} bytes are free, {reserve:.0f} have to stay so"
        yield Finding(what, "no release is fetched", "free space on the device")
    if problem := _text(outbox.get("problem")):
        yield Finding("what it has to report cannot be stored", problem, "check the device's disk")
    if lost := _number(outbox.get("lost")):
        what = f"{lost:.0f} of its reports were given up in all"
        yield Finding(what, "its spool was full: it could not reach the hub for long", "")
    if dropped := _number(samples.get("dropped")):
        yield Finding(f"{dropped:.0f} samples were dropped", "the channel's bound of waiting samples was reached", "")


def _model(device: str, name: str, model: Mapping[str, Any]) -> Iterator[Finding]:
    requests, failures = _number(model.get("requests")), _number(model.get("failures"))
    if failures:
        what = f"model {name}: the release fails on {failures:.0f} of {requests:.0f} requests"
        yield Finding(what, "", f"fleet device logs {device}")
    if refused := _number(model.get("refused")):
        newly = _number(model.get("newly_refused"))
        why = f"{newly:.0f} of them the release before took: {_text(model.get('refusal'))}" if newly else ""
        what = f"model {name}: {refused:.0f} requests were refused"
        yield Finding(what, why, "send what the release takes: fleet release show")
    if model.get("loading") is True:
        yield Finding(f"model {name}: it is still being loaded", "", "ask again in a while")
    if reason := _text(model.get("reason")):
        yield Finding(f"model {name}: {reason}", _text(model.get("detail")), _text(model.get("hint")))


def _certificate(expires: float, now: float) -> Iterator[Finding]:
    if 0 < expires < now:
        yield Finding("its certificate has expired", "", "it enrols again by its key when it reaches the hub")
    elif now <= expires < now + SOON_S:
        left = (expires - now) / 86_400
        why = "it should have been renewed at half its life"
        yield Finding(f"its certificate ends in {left:.0f} days", why, "does the device reach the hub by HTTPS?")


def _problem(word: str) -> str:
    return f"it has a problem: {_text(word)}"


def _models(said: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {_text(name): _part(model) for name, model in list(_part(said.get("models")).items())[:MODELS]}


def _part(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return value if len(value) <= TEXT else value[: TEXT - 1] + "…"


def _number(value: object) -> float:
    """A number that counts something, or a moment; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if math.isfinite(value) and value > 0 else 0.0
