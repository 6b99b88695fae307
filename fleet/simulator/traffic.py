"""The telemetry that a device would have measured between two moments. Pure: a profile and randomness in, a window out.

Requests come as a Poisson process. An audited request is about one of `SCENES` inputs; a release is right about an
input or not, always in the same way on this device, so that repeats are repeats, as they are in a real stream.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fleet.protocol.channel import RolloutRef
from fleet.protocol.pairing import input_keys
from fleet.protocol.shadow import ShadowCounts, keyed_apart
from fleet.protocol.telemetry import PairCounts, SketchData, Window
from fleet.simulator.profiles import DeviceProfile

SCENES = 1 << 20
MAX_PAIRS = 512  # distinct ones of one window, as on a real device
SKETCHED = 256  # rows of a window that its sketch covers at most
BUCKETS, BINS = 32, 20


class Running(Struct, frozen=True, kw_only=True):
    """The release that serves on the device while a window runs: `features` is its sketch's size, 0 without one;
    `shadowed` is the rollout whose release runs beside it."""

    model: str
    release: int
    variant: str
    auditor: int | None = None
    audit_share: float = 0.0
    classes: int = 0
    sketch_id: str = ""
    features: int = 0
    rollout: RolloutRef | None = None
    shadowed: RolloutRef | None = None


def window(
    running: Running,
    profile: DeviceProfile,
    rng: np.random.Generator,
    *,
    started: float,
    ended: float,
    elapsed_s: float,
) -> Window | None:
    """The window from `started` to `ended` (Unix seconds, by the device's clock); None when nobody asked.

    Args:
        elapsed_s: seconds that the simulation has run, which say whether the inputs have moved.
    """
    requests = int(rng.poisson(profile.requests_per_s * max(ended - started, 0.0)))
    if not requests:
        return None
    new = running.rollout is not None
    failed = int(rng.binomial(requests, profile.failing if new else 0.0))
    latency = profile.latency_us * (profile.slower if new else 1.0)
    times = np.maximum(latency * np.exp(0.25 * rng.standard_normal(min(requests, 2000))), 1.0)
    buckets = np.bincount(np.minimum(np.log2(times).astype(int), BUCKETS - 1), minlength=1)
    scale = requests / len(times)
    audited = int(rng.binomial(requests - failed, running.audit_share)) if running.auditor is not None else 0
    agree, pairs = _audits(running, profile, rng, audited)
    counters = {
        "requests": requests,
        "edge": requests - failed,
        "failed": failed,
        "local_failed": failed,
        "audited": audited,
        "audit_agree": agree,
        "latency_us_sum": int(times.sum() * scale),
    }
    return Window(
        model=running.model,
        release=running.release,
        variant=running.variant,
        auditor=running.auditor,
        started_at=started,
        ended_at=ended,
        counters={name: count for name, count in counters.items() if count},
        latency_us=tuple(int(count * scale) for count in buckets),
        confidence=_confidence(rng, requests),
        classes=_classes(running.classes, rng, requests),
        pairs=pairs,
        sketch=_sketch(running, profile, rng, min(requests, SKETCHED), elapsed_s),
        rollout=running.rollout.id if running.rollout else "",
        attempt=running.rollout.attempt if running.rollout else 0,
        shadow=_compared(running, profile, rng, requests - failed),
    )


def _audits(
    running: Running, profile: DeviceProfile, rng: np.random.Generator, audited: int
) -> tuple[int, PairCounts | None]:
    """Count the audits that agree with the auditor; with a rollout also return both releases' outcomes on each
    input."""
    if running.rollout is None:
        return int(rng.binomial(audited, profile.accuracy)), None
    outcomes: dict[bytes, int] = {}
    agree = repeats = 0
    for scene in rng.integers(0, SCENES, audited).tolist():
        old, new = _answers(profile, scene)
        agree += new
        (key,) = input_keys(running.rollout, {"scene": np.array([scene])}, 1, ("scene",))
        if key in outcomes or len(outcomes) >= MAX_PAIRS:
            repeats += 1
        else:
            outcomes[key] = (0 if new else 1) if old else (2 if new else 3)
    if not outcomes:
        return agree, None
    found = [[key for key, outcome in outcomes.items() if outcome == number] for number in range(4)]
    both, only_old, only_new, neither = map(len, found)
    return agree, PairCounts(
        rollout=running.rollout.id,
        attempt=running.rollout.attempt,
        old=running.rollout.from_release,
        new=running.release,
        both=both,
        only_old=only_old,
        only_new=only_new,
        neither=neither,
        repeats=repeats,
        keys=b"".join(key for keys in found for key in keys),
    )


def _compared(running: Running, profile: DeviceProfile, rng: np.random.Generator, answered: int) -> ShadowCounts | None:
    """Compare with the release of a shadow stage on copies of the requests, as many as one window may tell."""
    rollout = running.shadowed
    if rollout is None or running.rollout is not None or running.release != rollout.from_release:
        return None
    same: dict[bytes, bool] = {}
    repeats = 0
    for scene in rng.integers(0, SCENES, min(answered, MAX_PAIRS)).tolist():
        old, new = _answers(profile, scene)
        (key,) = input_keys(keyed_apart(rollout), {"scene": np.array([scene])}, 1, ("scene",))
        repeats += key in same
        same.setdefault(key, old == new)
    keys = sorted(same, key=lambda key: not same[key])
    latency, compared = profile.latency_us, len(same) + repeats
    return ShadowCounts(
        rollout=rollout.id,
        attempt=rollout.attempt,
        old=rollout.from_release,
        new=rollout.release,
        agree=sum(same.values()),
        differ=len(same) - sum(same.values()),
        repeats=repeats,
        keys=b"".join(keys),
        dropped=answered - compared,
        old_us=int(latency * compared),
        new_us=int(latency * profile.slower * compared),
    )


CHANGED = 0.02  # share of inputs that two releases of one quality answer differently, each way


def _answers(profile: DeviceProfile, scene: int) -> tuple[bool, bool]:
    """Tell whether the release before and the new one are right about an input: fixed for all time."""
    draw = ((scene * 2654435761) % 2**32) / 2**32  # multiplicative hashing (Knuth, TAOCP 6.4): one place in [0, 1)
    if draw < profile.loss + CHANGED:
        return True, False
    if draw < profile.loss + 2 * CHANGED:
        return False, True
    right = draw < profile.loss + 2 * CHANGED + profile.accuracy - CHANGED
    return right, right


def _confidence(rng: np.random.Generator, rows: int) -> tuple[int, ...]:
    shares = np.concatenate([np.full(BINS - 4, 0.2 / (BINS - 4)), [0.1, 0.15, 0.2, 0.35]])
    return tuple(int(count) for count in rng.multinomial(rows, shares))


def _classes(classes: int, rng: np.random.Generator, rows: int) -> tuple[int, ...]:
    return tuple(int(count) for count in rng.multinomial(rows, np.full(classes, 1.0 / classes))) if classes else ()


def _sketch(
    running: Running, profile: DeviceProfile, rng: np.random.Generator, rows: int, elapsed_s: float
) -> SketchData | None:
    """Sums as an encoder's: a mean that is the model's own, the noise of `rows` inputs, and the shift if any."""
    if not running.features or rows < 2:
        return None
    mean, direction = _mean(running.sketch_id, running.features)
    deviation = math.sqrt(0.5 / running.features)  # of one input's feature
    moved = profile.shift if 0 < profile.shift_after_s <= elapsed_s else 0.0
    noise = rng.standard_normal(running.features) / math.sqrt(rows)
    sums = (mean + deviation * (noise + moved * direction)) * rows
    size = float(np.linalg.norm(sums))
    if size > rows:  # no encoder's sums are longer
        sums *= rows / size
    return SketchData(sketch_id=running.sketch_id, count=rows, sums=sums.astype("<f4").tobytes())


@lru_cache(maxsize=64)
def _mean(sketch_id: str, features: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A mean feature of length about 0.7 and a direction of length √features, fixed for the model."""
    rng = np.random.default_rng(int(sketch_id[:16] or "0", 16))
    mean, direction = rng.standard_normal((2, features))
    return mean * math.sqrt(0.5 / features), direction
