"""Features that no baseline can hold, and how a release's other features are watched without them.

A sketch sums up a whole input, so a feature that only grows (`growth`), or that the policy names, moves all of it for
ever. Such a release is watched by what its windows say of each feature instead: mean and spread of those that are left,
in units of the windows that were there when that began, and scaled so that a small move lies about as far as in a
sketch (of a Gaussian kernel as wide as the median distance). The windows of the baseline's period count again. Where
nothing is left, nothing is watched of where inputs lie, and that is said.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift import alarms, features, quality, records, silence
from cloud_hub.drift.basis import ACROSS, DIMS, Basis, encode_basis
from cloud_hub.drift.input_state import InputMonitorState, feature_of, feature_text
from cloud_hub.drift.intake import Times
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.profiles import profile_of
from cloud_hub.drift.watch import SeenWindow
from cloud_hub.events.kinds import Event
from cloud_hub.events.outbox import record
from cloud_hub.objects import blob_key
from cloud_hub.store.tables import DriftMonitor, InputMonitor, WindowRow
from cloud_hub.store.uncounted import AWAITED
from cloud_hub.store.windows import newest_window
from fleet.protocol.blob import Blob
from fleet.protocol.drift_encoder import decode_encoder
from fleet.protocol.errors import ProtocolError
from fleet.protocol.figures import MEAN, SPREAD, Told, figures_of, planned_figures
from fleet.protocol.manifest import Manifest, SketchRef
from fleet.protocol.telemetry import InputSummary

log = logging.getLogger(__name__)
Floats = npt.NDArray[np.float64]

LEFT_OUT = "left_out"  # of a monitor's document: a `LeftOut`
FROM = "from"  # the newest window before its baselines began, which is where they begin again
GROWING = "growing"  # the state of a monitor that has nothing left to watch
WINDOWS = 200  # that say how wide features are
FARTHEST = 4.0  # spreads: nothing lies farther away


class LeftOut(Struct, frozen=True, kw_only=True):
    """The features that a monitor leaves out, as `input_state.feature_text`, and the reason in `words`; `places` of
    the input `tensor` are left, with their `centres` and `scales`."""

    names: tuple[str, ...]
    words: str
    tensor: str
    places: tuple[int, ...] = ()
    centres: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()


class SketchedInput(Struct, frozen=True):
    """The sketched input: the plan of its figures, and the names of its features. `whole`: all that there is to know
    could be read."""

    told: Told
    names: Mapping[str, Sequence[str]]
    whole: bool = True


def concerns(session: Session, model: str, release: int, policy: DriftPolicy) -> bool:
    """Tell whether a release leaves anything out, or has done so."""
    row, monitor = session.get(InputMonitor, (model, release)), session.get(DriftMonitor, (model, release))
    grown = row is not None and row.document.get(LEFT_OUT)
    return bool(policy.left_out or grown or (monitor is not None and monitor.document.get(LEFT_OUT)))


def known_of(hub: Hub, manifest: Manifest, sketch: SketchRef) -> SketchedInput | None:
    """Return a release's sketched input; None where nothing tells which it is, or its content.

    Raises:
        HubError: the encoder is not there now.
    """
    try:
        tensor = decode_encoder(hub.objects.get(blob_key(sketch.encoder.sha256)).data).tensor
    except ProtocolError:
        return None
    profile = profile_of(hub, manifest)
    names = profile.names if profile is not None else {}
    found = next((one for one in planned_figures(manifest.inputs) if tensor in ("", one.tensor)), None)
    whole = profile is not None or not isinstance(manifest.profile, Blob)
    return None if found is None else SketchedInput(found, names, whole)


def read(monitor: DriftMonitor) -> LeftOut | None:
    """Read the features that a monitor leaves out; None of one that is watched by its sketch."""
    found = monitor.document.get(LEFT_OUT)
    return msgspec.convert(found, LeftOut) if found else None


def settle(hub: Hub, session: Session, monitor: DriftMonitor, known: SketchedInput, policy: DriftPolicy) -> bool:
    """Begin baselines anew where other features are left out than before; whether anything is left to watch.

    Args:
        monitor: of the release; its row is locked.
        known: of its sketched input.
        policy: names features that are to be left out, whether they grow or not.
    """
    row = session.get(InputMonitor, (monitor.model, monitor.release))
    facts = msgspec.convert(row.document, InputMonitorState) if row is not None else InputMonitorState()
    grown = {name for name in facts.left_out if feature_of(name)[0] == known.told.tensor}
    places = range(len(known.told.names)) if known.told.kind == "values" else range(0)
    declared = {
        feature_text(known.told.tensor, place)
        for place in places
        if {f"{known.told.tensor}[{place}]", _name(known, place)} & {*policy.left_out}
    }
    before, wanted = read(monitor), tuple(sorted(grown | declared))
    if wanted != (before.names if before is not None else ()):
        found = _left_out(session, monitor, known, wanted, _words(known, facts, grown, declared))
        if found is not None:
            _begin(hub, session, monitor, found)
    left = read(monitor)
    if left is None or left.places:
        return True
    last = newest_window(session, monitor.model)
    monitor.state = GROWING
    if last > monitor.last_window:
        monitor.document = {**monitor.document, silence.HEARD: hub.clock()}
        monitor.last_window = last
    session.add(monitor)
    return False


def seen_in(rows: Sequence[WindowRow], left: LeftOut, basis: Basis, times: Times) -> list[SeenWindow]:
    """Read the windows that tell the features' values, in their order."""
    found = []
    for row in rows:
        summary = next((one for one in _summaries(row) if one.name == left.tensor and one.rows), None)
        table = figures_of(summary) if summary is not None else np.zeros((0, 8))
        if summary is not None and len(table) > max(left.places):
            point = _point(table, left) @ basis.directions.astype(np.float64)
            at = times.of(row)
            found.append(SeenWindow(device=row.device_id, release=row.release, at=at, count=summary.rows, row=point))
    return found


def _point(table: Floats, left: LeftOut) -> Floats:
    """A window's figures (f, 8) as a point (2 * places,): how far means and spreads lie from what is usual."""
    kept = table[list(left.places)]
    scales = np.asarray(left.scales)
    with np.errstate(all="ignore"):
        moved = (kept[:, MEAN] - np.asarray(left.centres)) / scales
        wider = np.log(np.maximum(kept[:, SPREAD], 1e-6 * scales) / scales)
    both = np.nan_to_num(np.concatenate([moved, wider]), nan=0.0, posinf=1e9, neginf=-1e9)  # NaN is said of the data
    bounded: Floats = both / np.sqrt(1.0 + (both / FARTHEST) ** 2)
    return bounded / math.sqrt(2 * len(left.places))


def _left_out(
    session: Session, monitor: DriftMonitor, known: SketchedInput, wanted: tuple[str, ...], words: str
) -> LeftOut | None:
    """Return the features that are left, by the newest windows; None where none of them tells it."""
    tensor = known.told.tensor
    gone = {feature_of(name)[1] for name in wanted}
    places = tuple(place for place in range(len(known.told.names)) if place not in gone)
    if not wanted or not places:
        return LeftOut(names=wanted, words=words, tensor=tensor)
    ours = (WindowRow.model == monitor.model, WindowRow.release == monitor.release)
    rows = session.exec(select(WindowRow).where(*ours).order_by(col(WindowRow.id).desc()).limit(WINDOWS)).all()
    table = features.pooled([_summaries(row) for row in rows], {tensor: known.told}).get(tensor)
    if table is None or not len(table):
        return None
    kept = np.nan_to_num(table[list(places)])
    scales = np.maximum(kept[:, 1], np.maximum(1e-6 * np.abs(kept[:, 0]), 1e-12))
    return LeftOut(
        names=wanted,
        words=words,
        tensor=tensor,
        places=places,
        centres=tuple(kept[:, 0].tolist()),
        scales=tuple(scales.tolist()),
    )


def _begin(hub: Hub, session: Session, monitor: DriftMonitor, found: LeftOut) -> None:
    """Let all streams begin anew with other coordinates, and their windows count again, as far as they are kept."""
    model, release, now = monitor.model, monitor.release, hub.clock()
    why = found.words or "no feature is left out any more"
    alarms.close_all(session, model, release, why)
    records.forget(session, model, release)
    document = {**monitor.document, LEFT_OUT: msgspec.to_builtins(found) if found.names else None, AWAITED: []}
    monitor.document = document
    monitor.basis = encode_basis(_basis(2 * len(found.places))) if found.places else b""
    monitor.state, monitor.last_window = "waiting", document.get(FROM, monitor.last_window)
    session.add(monitor)
    hub.audit(session, "drift", "drift.left_out", model, {"release": release, "why": why})
    said = f"inputs of {model}, release {release}: {why}"
    log.warning("%s", said)
    record(session, Event(kind="drift.unwatched", subject=model, message=said, data={"release": release}), now)


def _basis(size: int) -> Basis:
    """The coordinates themselves, all of one weight; of many, as many random directions as are watched."""
    directions = np.eye(size)
    if size > DIMS:
        drawn = np.random.default_rng(ACROSS).normal(size=(size, DIMS))
        directions, _ = np.linalg.qr(drawn)
        directions = directions * math.sqrt(size / DIMS)  # a move keeps its length, on average
    return Basis(directions=directions.astype(np.float32), weights=np.ones(directions.shape[1]))


def _words(known: SketchedInput, facts: InputMonitorState, grown: set[str], declared: set[str]) -> str:
    said = []
    for name in sorted(grown):
        count, of = facts.growing.get(name, 0), facts.watched
        said.append(f"{_quoted(known, name)} only grows or falls, on {count} of {of} devices")
    said += [f"{_quoted(known, name)} is left out by the policy" for name in sorted(declared - grown)]
    if not said:
        return ""
    left = len(known.told.names) - len(grown | declared)
    rest = f"the other {left} features are watched one by one" if left else "no feature is left that could be watched"
    todo = "; give the model its difference, or name it in left_out of the drift policy" if grown else ""
    return f"{', '.join(said)}: it is left out, for no baseline can hold it, and {rest}{todo}"


def _quoted(known: SketchedInput, name: str) -> str:
    return f"input {known.told.tensor!r}, {_name(known, feature_of(name)[1])},"


def _name(known: SketchedInput, place: int) -> str:
    return quality.feature_name(known.told.tensor, place, known.names, {known.told.tensor: known.told})


def _summaries(row: WindowRow) -> tuple[InputSummary, ...]:
    return msgspec.convert(row.body.get("inputs", ()), tuple[InputSummary, ...])
