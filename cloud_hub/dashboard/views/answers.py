"""The latest answers of models, in the words of their tasks: classes by share, values by quantile, and accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.dashboard.words import failed, share
from cloud_hub.drift import truth
from cloud_hub.drift.explain import SHARES, Summary, summarize
from cloud_hub.drift.meaning import Track
from cloud_hub.ingest.traffic import unanswered
from cloud_hub.store.tables import ChannelRow, MeaningMonitor, Model, WindowRow
from cloud_hub.trust.rows import interface_release
from fleet.protocol.channel import decode_channel
from fleet.protocol.manifest import Manifest
from fleet.protocol.quantiles import quantiles
from fleet.tasks import of_manifest

MODELS = 50
WINDOWS = 60  # of each model; the page is made anew every two seconds
CLASSES = 3  # the most frequent ones


class ModelView(Struct, frozen=True, kw_only=True):
    """A model's line: everything is text but `answers`, which are lines."""

    name: str
    task: str
    default: str
    requests: str
    failed: str
    audits: str
    labels: str
    answers: list[str]


def model_views(session: Session, model: str = "") -> list[ModelView]:
    """Every model that has a release, by name; one of them, if it is named."""
    defaults: dict[str, set[int]] = {}
    for row in session.exec(select(ChannelRow)):
        for held, entry in decode_channel(row.document).models.items():
            defaults.setdefault(held, set()).add(entry.release)
    views = []
    names = select(Model.name).order_by(col(Model.name)).limit(MODELS)
    for name in session.exec(names.where(Model.name == model) if model else names).all():
        current = interface_release(session, name)
        if current is not None:
            views.append(_view(session, name, current.manifest, sorted(defaults.get(name, ()))))
    return views


def _view(session: Session, name: str, manifest: Manifest, defaults: Sequence[int]) -> ModelView:
    newest = select(WindowRow).where(WindowRow.model == name).order_by(col(WindowRow.id).desc())
    rows = list(session.exec(newest.limit(WINDOWS)))
    counters: Counter[str] = Counter()
    missed = 0
    for row in rows:
        counters.update(row.body.get("counters", {}))
        missed += unanswered(row.body.get("counters", {}))
    monitors = session.exec(select(MeaningMonitor).where(MeaningMonitor.model == name)).all()
    watched = {row.release: truth.read(row) for row in sorted(monitors, key=lambda row: -row.release)}
    spec = manifest.named_task
    return ModelView(
        name=name,
        task=spec.name if spec is not None else "none",
        default=", ".join(map(str, defaults)) or "–",
        requests=f"{counters['requests']:,}" if rows else "–",
        failed=failed(missed, counters["refused"], counted=bool(rows)),
        audits=_by_release(share(counters["audit_agree"], counters["audited"]), watched, lambda one: one.audits),
        labels=_by_release("–", watched, lambda one: one.labels),
        answers=in_words(summarize(rows), manifest),
    )


def in_words(found: Summary, manifest: Manifest) -> list[str]:
    """`dog 61.0 %, cat 30.2 %`, or for each value `median 3.2; 5 to 95 %: 1.1 to 9`; empty where nothing was counted.

    `found` is of the model's windows, `manifest` of a release with its interface.
    """
    summarises = of_manifest(manifest).summarises
    if summarises == "classes":
        total = sum(found.classes)
        best = sorted(enumerate(found.classes), key=lambda pair: -pair[1])[:CLASSES]
        names = dict(enumerate(manifest.labels))
        told = ", ".join(f"{names.get(number, number)} {share(n, total)}" for number, n in best if n)
        return [told] if told else []
    if summarises != "values":
        return []
    lines = []
    for place, value in enumerate(found.values):
        marks = dict(zip(SHARES, quantiles(value, SHARES), strict=False))
        if marks:
            which = f"value {place + 1}: " if len(found.values) > 1 else ""
            lines.append(f"{which}median {marks[0.5]:.4g}; 5 to 95 %: {marks[0.05]:.4g} to {marks[0.95]:.4g}")
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _by_release(every: str, watched: Mapping[int, truth.Watched], track: Callable[[truth.Watched], Track]) -> str:
    """`93.1 % (record 95.0 %)`; where several releases are watched, of each. `every` is what is known without them."""
    tracks = {release: track(one) for release, one in watched.items() if track(one).now is not None}
    if not tracks:
        return every
    if len(watched) == 1:
        return "".join(map(_beside_record, tracks.values()))
    return "; ".join(f"release {release}: {_beside_record(one)}" for release, one in tracks.items())


def _beside_record(track: Track) -> str:
    record = track.record
    return _percent(track.now) + ("" if record is None else f" (record {_percent(record.mean)})")
