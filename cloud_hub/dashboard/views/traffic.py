"""The requests of the fleet, their answers by device and cloud, and the cost of the cloud's part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from msgspec import Struct
from sqlmodel import Session

from cloud_hub.config_tables import PricesConfig
from cloud_hub.context import Hub
from cloud_hub.dashboard.views.charts import Chart, stacked
from cloud_hub.dashboard.words import share, size
from cloud_hub.ingest import traffic
from cloud_hub.store.tables import Model, Traffic
from cloud_hub.trust.rows import interface_release
from fleet.protocol.durations import DAY_S, HOUR_S
from fleet.protocol.manifest import Tensor
from fleet.protocol.tensors import dtype_of

NAMED = 5  # models whose cost nobody knows
KINDS = ("on devices", "in the cloud", "failed")


class ModelTraffic(Struct, frozen=True, kw_only=True):
    """A model's part: counts, and `cost` in words, empty without a price."""

    model: str
    requests: int
    edge: str
    cloud: int
    failed: int
    refused: int
    calls: int
    bytes: str
    cost: str


class TrafficView(Struct, frozen=True, kw_only=True):
    """All models over some days; `total` is their cost in words."""

    days: int
    chart: Chart
    models: list[ModelTraffic]
    total: str


def traffic_view(hub: Hub, days: int, model: str = "") -> TrafficView:
    """The traffic of the last days, of one model if it is named."""
    now = int(hub.clock())
    span = HOUR_S if days <= 2 else DAY_S
    ends = (now // span + 1) * span
    begins = ends - days * DAY_S
    with hub.reading() as session:
        rows = traffic.hours(session, begins, model)
        sizes = {name: request_bytes(session, name) for name in {row.model for row in rows}}
    return TrafficView(
        days=days,
        chart=stacked(_columns(rows, span), KINDS, begins=begins, ends=ends, span_s=span),
        models=_models(rows, sizes, hub.config.prices),
        total=_total(rows, sizes, hub.config.prices),
    )


def request_bytes(session: Session, model: str) -> int | None:
    """Return the bytes of a row and its answer as tensors; None where shapes are open, or nothing is known, as of a
    model that was deleted and has had requests before."""
    current = interface_release(session, model) if session.get(Model, model) is not None else None
    if current is None:
        return None
    parts = [_bytes(tensor) for tensor in (*current.manifest.inputs, *current.manifest.outputs)]
    return None if any(part is None for part in parts) else sum(part or 0 for part in parts)


def _bytes(tensor: Tensor) -> int | None:
    elements = 1
    for length in tensor.shape[1:]:
        if length < 0:
            return None
        elements *= length
    dtype = dtype_of(tensor.datatype)
    return None if dtype.itemsize == 0 or dtype.hasobject else elements * dtype.itemsize


def _columns(rows: Sequence[Traffic], span: int) -> Mapping[int, Mapping[str, int]]:
    found: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        values = zip(KINDS, (row.edge, row.cloud, row.failed), strict=True)
        found[row.begins // span * span].update(dict(values))
    return found


def _models(rows: Sequence[Traffic], sizes: Mapping[str, int | None], prices: PricesConfig) -> list[ModelTraffic]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts = {name: getattr(row, name) for name in ("requests", "edge", "cloud", "failed", "refused", "audited")}
        found[row.model].update(counts)
    views = []
    for name, counts in sorted(found.items(), key=lambda pair: -pair[1]["requests"]):
        calls = counts["cloud"] + counts["audited"]
        per_call = sizes.get(name)
        view = ModelTraffic(
            model=name,
            requests=counts["requests"],
            edge=share(counts["edge"], counts["requests"]),
            cloud=counts["cloud"],
            failed=counts["failed"],
            refused=counts["refused"],
            calls=calls,
            bytes="–" if per_call is None else f"about {size(calls * per_call)}",
            cost=in_money(cost(calls, per_call, prices), prices),
        )
        views.append(view)
    return views


def _total(rows: Sequence[Traffic], sizes: Mapping[str, int | None], prices: PricesConfig) -> str:
    """Return the known part of the cost, and the models of which nothing is known; empty without a price."""
    if cost(0, None, prices) is None:
        return ""
    parts = [(row.model, cost(row.cloud + row.audited, sizes.get(row.model), prices)) for row in rows]
    unknown = sorted({name for name, part in parts if part is None})
    told = in_money(sum(part or 0.0 for _, part in parts), prices)
    return f"{told} without {', '.join(unknown[:NAMED])}, whose sizes are open" if unknown else told


def cost(calls: int, per_call: int | None, prices: PricesConfig) -> float | None:
    """Return the cost of calls; None where there is no price, or one for bytes that nobody knows."""
    if prices.per_1000_calls is None and prices.per_gigabyte is None:
        return None
    if prices.per_gigabyte and per_call is None and calls:
        return None
    return calls / 1000 * (prices.per_1000_calls or 0.0) + calls * (per_call or 0) / 1e9 * (prices.per_gigabyte or 0.0)


def in_money(amount: float | None, prices: PricesConfig) -> str:
    """`12.40 EUR`; empty where there is none."""
    return "" if amount is None else f"{amount:,.2f} {prices.currency}".strip()
