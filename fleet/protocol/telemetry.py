"""A model's telemetry on a device between two moments: counters, histograms, sketches and pairs (MessagePack)."""

from __future__ import annotations

from msgspec import Struct, field

from fleet.protocol.shadow import ShadowCounts

DRAWN_ROWS = 256  # of a window at most, that its sketch and its summaries are made of
VALUES = 16  # of an answer's numbers, each summarised by itself: about 24 KiB of a window


class PairCounts(Struct, frozen=True, kw_only=True):
    """Audited requests that a cohort device also answered with the release it came from.

    An answer is right when it agrees with the auditor's. `only_old` counts inputs that only the old release got right,
    `only_new` those that only the new one did; each distinct input of the window counts once, and `repeats` says how
    often one came again. `keys` are the inputs' (`fleet.protocol.pairing`), one after the other in the order both,
    only_old, only_new, neither. Agents of 0.1 send no keys and count every request.
    """

    rollout: str
    attempt: int
    old: int
    new: int
    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    repeats: int = 0
    keys: bytes = b""


class SketchData(Struct, frozen=True, kw_only=True):
    """A mergeable summary; see `fleet.protocol.sketch`. `sums` is float32 little-endian."""

    sketch_id: str
    count: int
    sums: bytes


class QuantileData(Struct, frozen=True, kw_only=True):
    """A mergeable summary of numbers; see `fleet.protocol.quantiles`.

    `means` rise from `low` to `high`, the least and the largest number; each stands for as many as `weights` says.
    All empty: there was no finite number.
    """

    low: float
    high: float
    means: tuple[float, ...] = ()
    weights: tuple[int, ...] = ()


class InputSummary(Struct, frozen=True, kw_only=True):
    """The values of one input in the rows that a window drew; see `fleet.protocol.figures`.

    `nan` and `infinite` count the rows with any. `refused` counts requests that were refused for such (as not `rows`
    do), by the place of the number in its row, "" where the input has many. `figures` is float32 little-endian (f, 8).
    """

    name: str
    rows: int
    nan: int = 0
    infinite: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    figures: bytes = b""


class Window(Struct, frozen=True, kw_only=True):
    """`kind="window"` (MessagePack): what one model did on one device between two moments.

    `counters`: requests, edge, cloud, degraded, deferred, failed, audited, audit_agree, latency_us_sum,
    local, local_failed, refused, newly_refused, ready (sent as the release's steps make them, which no sketch, sample
    or audit sees). `failed` are the requests that nobody answered, the refused ones
    among them; `local_failed` those that the device's own model failed on, also where the cloud answered
    (agents of 0.1 counted these as failed); `newly_refused` those that the release before this one would
    have taken. `refusals` counts the refused ones by reason (`errors.REFUSALS`). `rollout` and `attempt` say
    for whose cohort the release ran. `latency_us` counts requests per power-of-two bucket of microseconds (bucket i
    holds [2^i, 2^(i+1))). `confidence` is a 20-bin histogram over [0, 1]; `classes` counts the edge
    model's predicted classes; `values` summarises the numbers in its answers, value by value, where the task's answers
    are numbers (at most `VALUES`; agents before it was added send none). `sketch` covers rows that were drawn uniformly
    from the window's requests, those in an application's own process included; its `count` says how many, and
    `outlying` how many of them lie far from the training data (-1: nobody looked). `inputs` summarises the same rows
    input by input, where there are at most 16 (agents before it was added send none). `shadow` is what a release that
    runs beside this one made of the same requests.
    """

    model: str
    release: int
    variant: str
    auditor: int | None
    started_at: float
    ended_at: float
    counters: dict[str, int]
    latency_us: tuple[int, ...] = ()
    confidence: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    pairs: PairCounts | None = None
    sketch: SketchData | None = None
    refusals: dict[str, int] = field(default_factory=dict)
    rollout: str = ""
    attempt: int = 0
    values: tuple[QuantileData, ...] = ()
    outlying: int = -1
    inputs: tuple[InputSummary, ...] = ()
    shadow: ShadowCounts | None = None
