"""The promises of a release, held against simulations: `python benchmarks/statistics.py [--only guard silence]`, 20
minutes.

Deferral: handwritten digits (scikit-learn's), a weak edge model and a strong cloud model. A target is fitted to n
random rows, and held against all rows. Broken: it was signed and does not hold there. Writes
`benchmarks/results/statistics.json` with the seed and the machine's description.

Guard: two releases that answer a population of scenes, differently in 4 % of them or more; a harmless one loses
nothing, a harmful one 5 points. Devices meet scenes independently, 20 fixed ones each, each scene ten times
in a row, or all the same scenes. What the hub counts (each distinct scene once) is judged by the default policy as it
comes, until a verdict or the number of distinct inputs that `fleet rollout plan` prints; where there are never so many,
until each device has had thrice its part of them audited.

Silence: harmless and harmful releases on devices that are off for half an hour a day; see `silence`.

Teachers: one that is right in 90 % of all cases and one after it that is 0 or 5 points worse, on the same held-out
labels; they disagree on a tenth of them. Accepted: the later one is shown to be good enough to audit.

Drift: see `drift_promises`; weeks: `drift_weeks`; answers that become worse: `concept`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from benchmarks import concept, drift_promises, drift_weeks, silence
from cloud_hub.training.gate import compare
from fleet.protocol.confidence import confidence, probabilities
from fleet.protocol.manifest import Deferral
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.power import pairs_needed
from model_compiler.evaluate import deferral
from model_compiler.inputs.deferral_target import DeferTarget
from tests.support.claiming import Cohort

TRAINED = 600  # rows that train both models; the others are the population
COLUMNS = 20  # of 64 pixels that the edge model sees
SPARE = 0.03  # by which an oracle meets the targets that are to be signed
ROWS = (100, 500, 900)
SCENES, DIFFER = 20_000, 0.04  # of the guard's population
LINE = (
    "loss {loss:.2f}, {scenes:18}, {devices:2} devices, {planned} planned: healthy {healthy:.3f}, harmful {harmful:.3f}"
)
RIGHT, DISAGREED = 0.9, 0.1  # of the teacher before; of two teachers


@dataclass(frozen=True)
class Population:
    """Outputs of the edge model, (n, 10), the cloud's classes and the true ones, (n,)."""

    logits: npt.NDArray[np.float32]
    cloud: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]

    def kept(self, found: Deferral, target: DeferTarget) -> bool:
        """Tell whether the target holds here with this temperature and threshold."""
        p = probabilities(self.logits, temperature=found.temperature)
        deferred = confidence(p) < found.threshold
        if target.error is None:
            return bool(deferred.mean() <= (target.cloud or 0.0))
        return bool((np.where(deferred, self.cloud, p.argmax(axis=1)) != self.y).mean() <= target.error)


def digits(seed: int) -> Population:
    """A population, with the rows that train drawn by `seed`."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order, seen = rng.permutation(len(y)), rng.permutation(x.shape[1])[:COLUMNS]
    train, rest = order[:TRAINED], order[TRAINED:]
    edge = LogisticRegression(max_iter=2000).fit(x[train][:, seen], y[train])
    cloud = SVC().fit(x[train], y[train])
    logits = edge.decision_function(x[rest][:, seen]).astype(np.float32)
    return Population(logits=logits, cloud=cloud.predict(x[rest]).astype(np.int64), y=y[rest].astype(np.int64))


def oracle(population: Population) -> float:
    """The least error that any threshold reaches when all rows are known."""
    sure = confidence(probabilities(population.logits, temperature=1.0))
    right = population.logits.argmax(axis=1) == population.y
    rows = deferral.Rows(sure, right, population.cloud == population.y)
    return float(rows.wrong(np.unique([0.0, *sure, deferral.ALL])).min() / len(sure))


def judge(population: Population, target: DeferTarget, n: int, draws: int, seed: int) -> dict[str, Any]:
    """Count how often the target is signed, and broken all the same, over random sets of n rows."""
    rng = np.random.default_rng([seed, n])
    signed = broken = 0
    for _ in range(draws):
        rows = rng.choice(len(population.y), n, replace=False)
        found = deferral.fit(
            population.logits[rows], population.y[rows], population.cloud[rows], target, apply_softmax=True
        )
        signed += bool(found.target)
        broken += bool(found.target) and not population.kept(found, target)
    return {"target": target.describe(), "rows": n, "signed": signed / draws, "broken": broken / draws}


def teachers(worse: float, labels: int, draws: int, seed: int) -> dict[str, Any]:
    """Count how often a teacher that is `worse` (a fraction) than the one before becomes auditor."""
    rng = np.random.default_rng([seed, labels])
    accepted = 0
    for _ in range(draws):
        old, drawn = rng.random(labels) < RIGHT, rng.random(labels)
        lost, won = (DISAGREED + worse) / 2 / RIGHT, (DISAGREED - worse) / 2 / (1 - RIGHT)
        accepted += compare(old, np.where(old, drawn >= lost, drawn < won)).shown
    return {"worse": worse, "labels": labels, "accepted": accepted / draws}


def scenes(pattern: str, devices: int, length: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the scene that each device meets at each of its audited requests, (length, devices)."""
    if pattern == "20 scenes a device":
        own = rng.integers(0, SCENES, (20, devices))
        return np.take_along_axis(own, rng.integers(0, 20, (length, devices)), axis=0)
    if pattern == "ten times each":
        return np.repeat(rng.integers(0, SCENES, (-(-length // 10), devices)), 10, axis=0)[:length]
    if pattern == "all the same":
        return np.repeat(rng.integers(0, SCENES, (length, 1)), devices, axis=1)
    return rng.integers(0, SCENES, (length, devices))


def planned(devices: int) -> int:
    """Distinct inputs that the plan prints for the default policy."""
    found = pairs_needed(margin=GuardPolicy().margin, alpha=GuardPolicy().alpha, devices=devices)
    assert found is not None
    return found


def rollout(pattern: str, devices: int, loss: float, rng: np.random.Generator) -> str:
    """The guard's verdict on one rollout, looked at after every tenth round of audits."""
    drawn = rng.random(SCENES)
    won = max(0.0, (DIFFER - loss) / 2)
    lost = won + loss
    outcome = np.where(drawn < lost, "only_old", np.where(drawn < lost + won, "only_new", "both"))
    enough = planned(devices)
    each = {"ten times each": 11 * enough // devices, "all the same": enough + enough // 8}  # a scene may come again
    met = scenes(pattern, devices, each.get(pattern, 3 * enough // devices), rng)
    names = [f"d{device:02}" for device in range(devices)]
    seen, cohort = set[int](), Cohort(names)
    for number, at_once in enumerate(met):
        for device in rng.permutation(devices).tolist():  # whose window comes first
            scene = int(at_once[device])
            seen.add(scene)
            cohort.say(names[device], {scene: str(outcome[scene])})
        if number % 10 == 9 or len(seen) >= enough:
            verdict = cohort.judged()
            if verdict.judgement != "not-enough-evidence" or len(seen) >= enough:
                return verdict.judgement
    return "not-enough-evidence"


def guard(pattern: str, devices: int, loss: float, draws: int, seed: int) -> dict[str, Any]:
    """Count the ends of rollouts of a harmless, or harmful, release."""
    rng = np.random.default_rng([seed, devices, int(1000 * loss)])
    ends = [rollout(pattern, devices, loss, rng) for _ in range(draws)]
    shares = {name: ends.count(name) / draws for name in ("healthy", "harmful", "not-enough-evidence")}
    return {"scenes": pattern, "devices": devices, "loss": loss, "planned": planned(devices), **shares}


def measure_deferral(options: argparse.Namespace) -> dict[str, Any]:
    population = digits(options.seed)
    least = oracle(population)
    edge = float((population.logits.argmax(axis=1) != population.y).mean())
    print(f"edge error {100 * edge:.1f} %, best with the cloud {100 * least:.1f} %, {len(population.y)} rows")
    targets = [DeferTarget(error=e, cloud=None) for e in (least + SPARE, least + 2 * SPARE, 0.2)]
    targets += [DeferTarget(cloud=share) for share in (0.05, 0.1, 0.3)]
    found = []
    for target in targets:
        for n in ROWS:
            found.append(judge(population, target, n, options.draws, options.seed))
            print("{target:28} {rows:5} rows: signed {signed:.3f}, broken {broken:.3f}".format(**found[-1]))
    return {"edge_error": edge, "oracle_error": least, "deferral": found}


def measure_teachers(options: argparse.Namespace) -> dict[str, Any]:
    judged = [teachers(w, n, 10 * options.draws, options.seed) for w in (0.05, 0.0) for n in (100, 200, 400)]
    for line in judged:
        print("teacher {worse:.2f} worse, {labels} labels: accepted {accepted:.3f}".format(**line))
    return {"teachers": judged}


def measure_guard(options: argparse.Namespace) -> dict[str, Any]:
    rollouts = []
    for loss in (0.0, 0.05):
        for pattern in ("independent", "20 scenes a device", "ten times each", "all the same"):
            for devices in (3, 10, 50):
                rollouts.append(guard(pattern, devices, loss, options.draws // 2, options.seed))
                print(LINE.format(**rollouts[-1]))
    return {"guard": rollouts}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "deferral": measure_deferral,
    "teachers": measure_teachers,
    "guard": measure_guard,
    "silence": lambda options: {"silence": silence.rows(options.draws // 4, options.seed)},
    "drift": lambda options: {"drift": drift_promises.measure(options.draws, options.model_days, options.seed)},
    "concept": lambda options: {"concept": concept.measure(options.draws, options.seed)},
    "weeks": lambda options: {"weeks": drift_weeks.measure(options.draws, options.model_days, options.seed)},
}


def before(out: Path) -> dict[str, Any]:
    """The results that a file holds, which those of other parts are added to; none where there is no file yet."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=400, help="random sets of rows for each line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model-days", type=int, default=6000, help="for each line of false drift alarms")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the other results stay")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "statistics.json")
    options = parser.parse_args()
    document = before(options.out) if set(options.only) != set(PARTS) else {}
    document |= {
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "seed": options.seed,
        "draws": options.draws,
    }
    for part in options.only:
        document |= PARTS[part](options)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
