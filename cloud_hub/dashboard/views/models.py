"""Models and their releases in the words of the pages."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.answers import ModelView, model_views
from cloud_hub.dashboard.views.lineage import Lineage, draw, origins
from cloud_hub.dashboard.views.traffic import TrafficView, traffic_view
from cloud_hub.jobs.runs import list_runs
from cloud_hub.store.benchmarks import Figures, by_hardware
from cloud_hub.store.tables import ChannelRow, Release
from cloud_hub.trust.rows import get_model
from fleet.api.runs import RunInfo
from fleet.protocol.channel import Channel, decode_channel

RELEASES = 25
MEASURED = 200  # figures of a release that are summed up
DAYS = 7
JOBS, RUNS = 10, 40  # whose training runs are shown, and how many of them


class ReleaseView(Struct, frozen=True, kw_only=True):
    """A release's line; `uses` are what channels use it for, in words."""

    row: Release
    uses: list[str]


class MeasuredLatency(Struct, frozen=True, kw_only=True):
    """A latency that devices of a hardware class measured of a release's variant."""

    release: int
    figures: Figures


class ModelPage(Struct, frozen=True, kw_only=True):
    """One model; `view` is None before its first release."""

    name: str
    view: ModelView | None
    releases: list[ReleaseView]
    latencies: list[MeasuredLatency]
    lineage: Lineage
    traffic: TrafficView
    runs: list[RunInfo]


class ModelsPage(Struct, frozen=True, kw_only=True):
    """Every model that has a release, by name, and the traffic of all."""

    models: list[ModelView]
    traffic: TrafficView


def models_page(hub: Hub) -> ModelsPage:
    """All models."""
    with hub.reading() as session:
        models = model_views(session)
    return ModelsPage(models=models, traffic=traffic_view(hub, DAYS))


def model_page(hub: Hub, model: str) -> ModelPage:
    """One model with its newest releases; NotFoundError when there is no such model."""
    with hub.reading() as session:
        get_model(session, model)
        view = next(iter(model_views(session, model)), None)
        releases = _releases(session, model)
        used = [release.row.number for release in releases if release.uses]
        found = [(number, one) for number in used for one in by_hardware(session, model, number, most=MEASURED)]
        lineage = draw(model, origins(session, model))
    return ModelPage(
        name=model,
        view=view,
        releases=releases,
        latencies=[MeasuredLatency(release=number, figures=one) for number, one in found],
        lineage=lineage,
        traffic=traffic_view(hub, DAYS, model),
        runs=list_runs(hub, model, limit=JOBS).items[:RUNS],
    )


def _releases(session: Session, model: str) -> list[ReleaseView]:
    uses = release_uses([decode_channel(row.document) for row in session.exec(select(ChannelRow))])
    newest = select(Release).where(Release.model == model, Release.status != "reserved")
    rows = session.exec(newest.order_by(col(Release.number).desc()).limit(RELEASES)).all()
    return [ReleaseView(row=row, uses=uses.get((row.model, row.number), [])) for row in rows]


def release_uses(channels: Sequence[Channel]) -> dict[tuple[str, int], list[str]]:
    """(model, release) → what channels use it for, in words."""
    uses: dict[tuple[str, int], list[str]] = {}
    for channel in channels:
        for model, entry in channel.models.items():
            uses.setdefault((model, entry.release), []).append(f"default of {channel.channel}")
            if entry.rollout is not None:
                uses.setdefault((model, entry.rollout.release), []).append(f"rolling out on {channel.channel}")
            if entry.audit.auditor is not None:
                uses.setdefault((model, entry.audit.auditor), []).append(f"auditor of {channel.channel}")
    return uses
