"""The rarity of drift alarms while nothing happens, and their delay when it does; `statistics.py` runs it.

Handwritten digits (scikit-learn's) as a device's sketch sees them; windows of ten minutes. Every replicate is a model
with devices of its own, watched from its first window with the defaults: a provisional test at first, a baseline of a
day, and of more days where one does not show how its windows depend on one another.

False alarms, per model-day after the first day: windows of independent inputs; of six inputs that come ten times each;
devices that each have another mix of classes; a mix that swings by half over the day; subjects who stay for four hours,
each with a mix and 40 images of their own (counted after 30 stays).

Shifts, after a day of independent inputs: in how many windows of each device the alarm comes. Power of the sketch's
statistic beside the exact maximum mean discrepancy on the same embedding: both tests at 5 %, pairs of 200 inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

from cloud_hub.drift import signed
from cloud_hub.drift.baseline import History, fit
from cloud_hub.drift.basis import Basis, basis_of_encoder
from cloud_hub.drift.signed import Bank
from fleet.protocol.drift_encoder import fit_encoder
from fleet.protocol.durations import DAY_S
from fleet.protocol.sketch import Sketcher, distance
from fleet.protocol.telemetry import SketchData

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Images = npt.NDArray[np.float32]
Draw = Callable[[int], Floats]  # the windows of a step: (replicates, devices, K)

WINDOW_S, ROWS = 600.0, 60
DAY = int(DAY_S / WINDOW_S)  # windows of a device
PAIRS = 500  # of samples at once
BUDGET_DAYS = 1000.0  # as a model's policy has it by default
NOISE = 0.45  # of pixels in [0, 1]: a linear classifier that was right in .96 is right in .72
KINDS = ("independent", "repeats", "devices differ", "diurnal", "stays")
SHIFTS = ("class gone", "rotation 10", "noise on a tenth", "rotation 40")


class Digits(NamedTuple):
    """Coordinates (n, K) of plain and changed images in the encoder's basis, and classes (n,).

    `features` and `embedded` hold the same images before that: the sketch's features and what they approximate.
    """

    plain: Floats
    changed: dict[str, Floats]
    classes: Numbers
    basis: Basis
    features: dict[str, Floats]
    embedded: dict[str, Floats]


def digits(seed: int) -> Digits:
    """Encoder and basis are fitted to other images than those that devices see."""
    rng = np.random.default_rng(seed)
    x, y = load_digits().images.astype(np.float32) / 16, load_digits().target.astype(np.int64)
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    encoder = fit_encoder(x[:600])
    sketcher, x, y = Sketcher(encoder), x[600:], y[600:]

    def turned(most: float) -> Images:
        return np.stack([np.clip(rotate(i, rng.uniform(-most, most), reshape=False, order=1), 0, 1) for i in x])

    noisy = np.clip(x + NOISE * rng.standard_normal(x.shape), 0, 1).astype(np.float32)
    tenth = np.where((rng.random(len(x)) < 0.1)[:, None, None], noisy, x)
    images = {"": x, "noise": noisy, "noise on a tenth": tenth, "class gone": x[y != 0]}
    images |= {"rotation 10": turned(10), "rotation 40": turned(40)}
    features = {name: sketcher.features(some).astype(np.float64) for name, some in images.items()}
    mean, projection = np.frombuffer(encoder.mean, "<f4"), np.frombuffer(encoder.projection, "<f4")
    scaled = projection.reshape(-1, encoder.dims).astype(np.float64) / encoder.bandwidth
    embedded = {name: (some.reshape(len(some), -1) - mean) @ scaled for name, some in images.items()}
    basis = basis_of_encoder(encoder)
    seen = {name: some @ basis.directions for name, some in features.items()}
    return Digits(seen[""], seen, y, basis, features, embedded)


def windows(
    features: Floats, count: int, rng: np.random.Generator, p: Floats | None = None, distinct: int = ROWS
) -> Floats:
    """Means (count, K) of `ROWS` random rows, of which `distinct` are drawn and the others repeat them."""
    rows = rng.choice(len(features), (count, distinct), p=p)
    return np.stack([features[some].mean(axis=0) for some in rows])


class Fleet:
    """Replicates of a model with some devices and the fleet, stepped together."""

    def __init__(self, weights: Floats, replicates: int, devices: int) -> None:
        self.weights, self.replicates, self.devices = weights, replicates, devices
        self.shares = np.array([0.5 / devices] * devices + [0.5])
        self.limits = np.array([signed.limit(BUDGET_DAYS, DAY, share) for share in self.shares])
        self.histories = [[History(len(weights)) for _ in range(devices)] for _ in range(replicates)]
        self.bank: Bank | None = None
        self.now = 0.0

    def learn(self, seen: Floats, *, over: bool = True) -> None:
        """Add windows (steps, replicates, devices, K) to the baselines and make them anew, without evidence."""
        at = self.now - WINDOW_S * np.arange(len(seen), dtype=np.float64)[::-1]
        old = self.bank.far.reshape(self.replicates, -1) if self.bank is not None else None
        baselines = []
        for r, histories in enumerate(self.histories):
            mine = []
            for d, history in enumerate(histories):
                history.extend(seen[:, r, d], at, np.full(len(seen), ROWS))
                mine.append(fit(history, self.weights, over=over, far=0.0 if old is None else float(old[r, d])))
            merged = History(len(self.weights))
            rows = np.mean([h.rows - b.mean for h, b in zip(histories, mine, strict=True)], axis=0)
            merged.rows, merged.at, merged.sizes = rows, histories[0].at, histories[0].sizes
            merged.level, merged.windows = histories[0].level, histories[0].windows
            merged.inverse_counts = merged.windows / self.devices
            baselines += [*mine, fit(merged, self.weights, over=over, far=0.0 if old is None else float(old[r, -1]))]
        self.bank = Bank.begin(baselines, list(self.shares) * self.replicates, self.weights, self.now)

    def step(self, seen: Floats) -> npt.NDArray[np.bool_]:
        """Count one window of each device (replicates, devices, K); which streams are over their limit."""
        assert self.bank is not None
        self.now += WINDOW_S
        means = self.bank.mean.reshape(self.replicates, self.devices + 1, -1)[:, :-1]
        rows = np.concatenate([seen, (seen - means).mean(axis=1, keepdims=True)], axis=1)
        counts = np.tile([float(ROWS)] * self.devices + [float(self.devices)], self.replicates)
        flat = rows.reshape(len(counts), -1)
        signed.step(self.bank, self.weights, flat, counts, np.full(len(counts), self.now))
        return self.bank.log_e.reshape(self.replicates, -1) >= self.limits

    def alarms(self, seen: Floats) -> npt.NDArray[np.bool_]:
        """Count one window of each device (replicates, devices, K); which replicates have a stream over its limit."""
        return np.asarray(self.step(seen).any(axis=1), np.bool_)

    def close(self, over: npt.NDArray[np.bool_]) -> None:
        """Close the alarms of these replicates: all their evidence is nothing."""
        assert self.bank is not None
        self.bank.logs.reshape(self.replicates, self.devices + 1, -1)[over] = 0.0


def drawer(kind: str, data: Digits, replicates: int, devices: int, rng: np.random.Generator) -> Draw:
    """The windows of harmless traffic."""
    shape, phases, banks = (replicates, devices), 48, 2000
    if kind in ("independent", "repeats"):
        bank = windows(data.plain, 20 * banks, rng, distinct=6 if kind == "repeats" else ROWS)
        return lambda step: bank[rng.integers(0, len(bank), shape)]
    if kind == "diurnal":
        swing = 0.5 * np.sin(2 * np.pi * np.arange(phases) / phases)[:, None] * np.where(data.classes < 5, 1, -1)
        by_phase = np.stack([windows(data.plain, banks, rng, p=(1 + s) / (1 + s).sum()) for s in swing])
        return lambda step: by_phase[step * phases // DAY % phases, rng.integers(0, banks, shape)]
    subjects = np.stack([_own_mix(data, 100, rng, kind == "stays") for _ in range(400)])
    if kind == "devices differ":
        which = rng.integers(0, len(subjects), shape)
        return lambda step: subjects[which, rng.integers(0, 100, shape)]
    stay = int(4 * 3600 / WINDOW_S)
    first, seed = rng.integers(0, stay, shape), int(rng.integers(0, 2**31))

    def stays(step: int) -> Floats:
        number = (step + first) // stay
        who = (number * 7919 + np.arange(replicates * devices).reshape(shape) * 104729 + seed) * 2654435761 % 2**32
        drawn: Floats = subjects[(who >> 8) % len(subjects), rng.integers(0, 100, shape)]
        return drawn

    return stays


def _own_mix(data: Digits, count: int, rng: np.random.Generator, few: bool) -> Floats:
    p = rng.dirichlet(np.full(10, 2.0))[data.classes]
    if not few:
        return windows(data.plain, count, rng, p=p / p.sum())
    own = rng.choice(len(p), 40, replace=False, p=p / p.sum())
    return windows(data.plain[own], count, rng)


def false_alarms(kind: str, data: Digits, replicates: int, days: int, seed: int, devices: int = 3) -> dict[str, Any]:
    """Alarms of harmless traffic over so many days of each replicate."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    draw = drawer(kind, data, replicates, devices, rng)
    fleet = Fleet(data.basis.weights, replicates, devices)
    seen = [draw(step) for step in range(30)]
    fleet.now = 29 * WINDOW_S
    fleet.learn(np.stack(seen), over=False)
    learnt, alarms, early, step = 30, 0, 0, 30
    start = 5 * DAY if kind == "stays" else DAY
    refits, kept = [DAY * 2**n for n in range(6)], list[Floats]()
    while step < days * DAY:
        now = draw(step)
        if learnt < refits[-1]:
            kept.append(now)
        over = fleet.alarms(now)
        alarms, early = alarms + int(over.sum()) * (step >= start), early + int(over.sum()) * (step < start)
        if over.any():
            fleet.close(over)
        step += 1
        assert fleet.bank is not None
        if step in refits and (step == DAY or not fleet.bank.steady.all()):
            fleet.learn(np.stack(kept))  # all together: the blocks that one needs, others of its kind need as well
            learnt, kept = step, []
    assert fleet.bank is not None
    counted = replicates * (days - start / DAY)
    return {
        "traffic": kind,
        "devices": devices,
        "model_days": counted,
        "alarms": alarms,
        "alarms_before": early,
        "steady": float(fleet.bank.steady.mean()),
        "learnt_days": learnt / DAY,
        "block_hours": float(np.median(fleet.bank.block_s) / 3600),
    }


def delays(shift: str, data: Digits, replicates: int, seed: int, devices: int = 3, most: int = 400) -> dict[str, Any]:
    """Windows of each device until the alarm, where all devices change, or one ("sick") of them."""
    rng = np.random.default_rng([seed, len(shift), devices])
    draw = drawer("independent", data, replicates, devices, rng)
    sick = shift == "sick device"
    changed = windows(data.changed["noise" if sick else shift], 5000, rng)
    fleet = Fleet(data.basis.weights, replicates, devices)
    fleet.now = (DAY - 1) * WINDOW_S
    fleet.learn(np.stack([draw(step) for step in range(DAY)]))
    found, named = np.zeros(replicates, np.int64), np.zeros(replicates, np.bool_)
    for count in range(1, most + 1):
        now = draw(count)
        moved = changed[rng.integers(0, len(changed), (replicates, devices))]
        if sick:
            now[:, 0] = moved[:, 0]
        else:
            now = moved
        over = fleet.step(now)
        fresh = (found == 0) & over.any(axis=1)
        found[fresh], named[fresh] = count, over[fresh, 0]
        if found.all():
            break
    late = np.where(found == 0, most + 1, found)
    result = {"shift": shift, "devices": devices, "replicates": replicates, "median": float(np.median(late))}
    within = 60 if sick else 100
    return result | {"within": within, "found": float((late <= within).mean()), "named": float(named.mean())}


def against_mmd(shift: str, data: Digits, draws: int, seed: int, n: int = 200) -> dict[str, Any]:
    """The power of the sketch's statistic over that of the exact kernel's, both at 5 %, on the same pairs of samples.

    The statistic is the squared difference of the means in weighted coordinates, as the drift test looks at them; the
    plain distance of two sketches stands beside it.
    """
    rng = np.random.default_rng([seed, len(shift), n])
    plain, changed = data.features[""], data.features[shift]
    both = np.concatenate([data.embedded[""], data.embedded[shift]])
    squares = (both**2).sum(axis=1)
    gaps = np.maximum(squares[:, None] + squares[None, :] - 2 * both @ both.T, 0.0)
    kernel = np.exp(-0.5 * gaps).astype(np.float32)

    everything = np.concatenate([plain, changed]).astype(np.float32)

    def drawn(start: int, size: int) -> npt.NDArray[np.float32]:
        """Count how often each image is in each of some samples: (PAIRS, images)."""
        counts = np.zeros((PAIRS, len(both)), np.float32)
        np.add.at(counts, (np.arange(PAIRS)[:, None], rng.integers(start, start + size, (PAIRS, n))), 1.0)
        return counts

    def distances(moved: bool) -> Floats:
        """The sketches' statistic, their distance, and the exact one, of some pairs of samples: (PAIRS, 3)."""
        left, right = drawn(0, len(plain)), drawn(len(plain), len(changed)) if moved else drawn(0, len(plain))
        through = left @ kernel, right @ kernel
        within = sum((a * b).sum(axis=1) - n for a, b in zip(through, (left, right), strict=True)) / (n * (n - 1))
        exact = within - 2 * (through[0] * right).sum(axis=1) / n**2
        sums = left @ everything, right @ everything
        plainly = [distance(_sketch(a, n), _sketch(b, n)) for a, b in zip(*sums, strict=True)]
        weighted = (((sums[0] - sums[1]) @ data.basis.directions / n) ** 2) @ data.basis.weights
        return np.stack([weighted, plainly, exact], axis=1)

    none, some = (np.concatenate([distances(moved) for _ in range(max(draws // PAIRS, 1))]) for moved in (False, True))
    draws = len(some)
    found = some > np.quantile(none, 0.95, axis=0)
    again = [found[rng.integers(0, draws, draws)].mean(axis=0) for _ in range(1000)]
    low = [float(np.quantile([row[place] / max(row[2], 1e-9) for row in again], 0.05)) for place in (0, 1)]
    sketch, plainly, exact = found.mean(axis=0).tolist()
    return {
        "shift": shift,
        "draws": draws,
        "sketch": sketch,
        "distance": plainly,
        "exact": exact,
        "low": low[0],
        "low_distance": low[1],
    }


def _sketch(sums: Floats, count: int) -> SketchData:
    return SketchData(sketch_id="", count=count, sums=sums.astype("<f4").tobytes())


def measure(draws: int, model_days: int, seed: int) -> dict[str, Any]:
    """All rows; prints each as it comes."""
    data, found = digits(seed), dict[str, Any]()
    found["power"] = [against_mmd(shift, data, 10 * draws, seed) for shift in SHIFTS]
    for line in found["power"]:
        print("{shift:18} power {sketch:.3f}, of the exact kernel {exact:.3f}; ratio at least {low:.3f}".format(**line))
    found["delays"] = [delays(shift, data, draws // 4, seed) for shift in SHIFTS]
    found["delays"].append(delays("sick device", data, draws // 8, seed, devices=20))
    for line in found["delays"]:
        print("{shift:18} {devices:2} devices: {found:.3f} within {within} windows, median {median:.0f}".format(**line))
    found["false_alarms"] = []
    for kind in KINDS:
        found["false_alarms"].append(false_alarms(kind, data, draws // 4, max(4 * model_days // draws, 20), seed))
        print("{traffic:18} {alarms} alarms in {model_days:.0f} model-days".format(**found["false_alarms"][-1]))
    return found
