"""What models answered lately, in the words of their tasks: classes by share, values by quantile, and how right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.drift import truth
from cloud_hub.drift.explain import SHARES, Summary, summarize
from cloud_hub.drift.meaning import Track
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


def model_views(session: Session) -> list[ModelView]:
    """Every model that has a release, by name."""
    defaults: dict[str, set[int]] = {}
    for row in session.exec(select(ChannelRow)):
        for model, entry in decode_channel(row.document).models.items():
            defaults.setdefault(model, set()).add(entry.release)
    views = []
    for name in session.exec(select(Model.name).order_by(col(Model.name)).limit(MODELS)).all():
        current = interface_release(session, name)
        if current is not None:
            views.append(_view(session, name, current.manifest, sorted(defaults.get(name, ()))))
    return views


def _view(session: Session, name: str, manifest: Manifest, defaults: Sequence[int]) -> ModelView:
    newest = select(WindowRow).where(WindowRow.model == name).order_by(col(WindowRow.id).desc())
    rows = list(session.exec(newest.limit(WINDOWS)))
    counters: Counter[str] = Counter()
    for row in rows:
        counters.update(row.body.get("counters", {}))
    monitor = session.get(MeaningMonitor, name)
    watched = truth.read(monitor) if monitor is not None else truth.Watched()
    spec = manifest.named_task
    return ModelView(
        name=name,
        task=spec.name if spec is not None else "none",
        default=", ".join(map(str, defaults)) or "–",
        requests=f"{counters['requests']:,}",
        failed=failed(counters),
        audits=_beside_record(share(counters["audit_agree"], counters["audited"]), watched.audits),
        labels=_beside_record(_percent(watched.labels.now), watched.labels),
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


def failed(counters: Mapping[str, int]) -> str:
    """The requests that nobody answered, with the refused ones among them: `12 (9 refused)`.

    They are what neither the edge nor the cloud answered: agents of 0.1 counted as failed also what the cloud answered
    in the end.
    """
    count = counters.get
    refused = count("refused", 0)
    unanswered = max(count("requests", 0) - count("edge", 0) - count("cloud", 0), refused, 0)
    return f"{unanswered:,}" + (f" ({refused:,} refused)" if refused else "")


def share(part: int, whole: int) -> str:
    """`97.3 %`, or a dash when there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _beside_record(now: str, track: Track) -> str:
    record = track.record
    return now if record is None or now == "–" else f"{now} (record {_percent(record.mean)})"
