"""The fewest operators to keep in float so that the gate holds. Pure: judging and ranking come in.

A tensor stays in float only where its writer and every reader do, so keeping a single operator in float often
helps nothing although it is to blame. Operators are therefore ranked by what quantizing *each alone* costs: the
writer and the readers of a tensor that quantizes badly all show it.

1. Full int8 by every calibration method; the first that passes wins, for none is smaller.
2. The 1, 2, 4, … most sensitive operators stay in float until the gate holds; bisection finds the fewest.
3. Those that are not needed after all are quantized again, by halves and then one by one (Zeller and
   Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from model_compiler.build.calibration import METHODS, Method, QuantizationPlan

BUDGET: Final = 24  # model files that are built and judged at most


@dataclass(frozen=True)
class Candidate:
    """One plan that was tried, with what came of it on the search split.

    `value` is the metric, `drop_points` how far it lies below the float model's, `agreement` from 0 to 1,
    `broken` the gate's terms that it breaks, in words. A plan that cannot be built has broken words, too.
    """

    plan: QuantizationPlan
    size_bytes: int
    value: float
    drop_points: float
    agreement: float
    broken: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """True if it meets the gate."""
        return not self.broken


@dataclass(frozen=True)
class SearchResult:
    """`plan` is None when nothing passed. `tried` in order; `sensitivity` is each operator's id with what
    quantizing it alone costs, largest first, empty where a better calibration was enough."""

    plan: QuantizationPlan | None
    tried: tuple[Candidate, ...]
    sensitivity: tuple[tuple[str, float], ...] = ()

    def frontier(self) -> tuple[Candidate, ...]:
        """Those that no other beats in both size and agreement, smallest first."""
        built = [c for c in self.tried if c.size_bytes]
        kept = [c for c in built if not any(_beats(other, c) for other in built)]
        return tuple(sorted(kept, key=lambda c: (c.size_bytes, -c.agreement)))


Judge = Callable[[QuantizationPlan], Candidate]
Rank = Callable[[Method], Sequence[tuple[str, float]]]


def search(judge: Judge, rank: Rank, *, budget: int = BUDGET) -> SearchResult:
    """Find the plan that passes with the fewest operators in float.

    Args:
        judge: builds a plan and runs it on the search split, which is never the validation set.
        rank: every operator with its sensitivity under a calibration method, in any order.
        budget: `judge` is called at most so often, never twice for one plan.
    """
    trials = _Trials(judge, budget)
    for method in METHODS:
        if trials.passes(QuantizationPlan(method)):
            return SearchResult(QuantizationPlan(method), tuple(trials.tried))
    base = min(trials.tried, key=lambda c: (c.drop_points, -c.agreement)).plan
    ranked = tuple(sorted(rank(base.calibration), key=lambda item: -item[1]))
    kept = _fewest([name for name, _ in ranked], base, trials)
    if kept is None:
        return SearchResult(None, tuple(trials.tried), ranked)
    needed = _needed(kept, base, trials)
    # With every operator in float it is the float model, and no int8 variant.
    plan = _keep(base, needed) if len(needed) < len(ranked) else None
    return SearchResult(plan, tuple(trials.tried), ranked)


class _Trials:
    """Judges each plan once, within the budget."""

    def __init__(self, judge: Judge, budget: int) -> None:
        self._judge, self._budget = judge, budget
        self._known: dict[QuantizationPlan, Candidate] = {}

    @property
    def tried(self) -> list[Candidate]:
        return list(self._known.values())

    @property
    def spent(self) -> bool:
        return len(self._known) >= self._budget

    def passes(self, plan: QuantizationPlan) -> bool:
        """False, too, when the budget does not reach."""
        if plan not in self._known:
            if self.spent:
                return False
            self._known[plan] = self._judge(plan)
        return self._known[plan].passes


def _fewest(order: Sequence[str], base: QuantizationPlan, trials: _Trials) -> list[str] | None:
    """The shortest beginning of `order` that must stay in float, by doubling and then bisection."""
    failed, passed = 0, 0
    for count in _doubling(len(order)):
        if trials.passes(_keep(base, order[:count])):
            passed = count
            break
        failed = count
    if not passed:
        return None
    while passed - failed > 1:
        middle = (passed + failed) // 2
        if trials.passes(_keep(base, order[:middle])):
            passed = middle
        else:
            failed = middle
    return list(order[:passed])


def _doubling(most: int) -> list[int]:
    counts = [1 << power for power in range(most.bit_length())]
    return [count for count in counts if count < most] + ([most] if most else [])


def _needed(kept: list[str], base: QuantizationPlan, trials: _Trials) -> list[str]:
    """Return the operators that are left when all others are quantized again, beginning with the least sensitive.

    The most sensitive one but for which the beginning would be shorter is known to be needed.
    """
    size = len(kept) // 2
    while size:
        end = len(kept)
        while end > 0 and not trials.spent:
            begin = max(end - size, 0)
            fewer = kept[:begin] + kept[end:]
            if fewer and trials.passes(_keep(base, fewer)):
                kept = fewer
            end = begin
        size //= 2
    return kept


def _keep(base: QuantizationPlan, operators: Iterable[str]) -> QuantizationPlan:
    return replace(base, float_operators=frozenset(operators))


def _beats(one: Candidate, other: Candidate) -> bool:
    better = one.size_bytes < other.size_bytes or one.agreement > other.agreement
    return better and one.size_bytes <= other.size_bytes and one.agreement >= other.agreement
