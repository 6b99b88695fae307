"""The next trial of a search over hyper-parameters: by Optuna's tree-structured Parzen estimator (Bergstra 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cloud_hub.errors import InvalidError
from fleet.api.hyper import WHOLE, Range, Space, Values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Hyper = dict[str, float]


class Proposer:
    """Proposes hyper-parameters from a space by the losses of those before. The same calls propose the same."""

    def __init__(self, space: Space, *, seed: int, before: Sequence[tuple[int, Hyper, float | None]]):
        """`before` are trials that are known already, each with its number and its loss, None for one that failed."""
        try:
            import optuna
        except ImportError as error:
            raise InvalidError("a search needs Optuna", subject="tune", hint='pip install "edgeloop[train]"') from error

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space: dict[str, BaseDistribution] = {name: _distribution(name, tried) for name, tried in space.items()}
        sampler = optuna.samplers.TPESampler(seed=seed + len(before), constant_liar=True)
        self._study = optuna.create_study(sampler=sampler)
        self._ahead = max((number + 1 for number, _, _ in before), default=0) - len(before)  # of the study's numbers
        for _, hyper, loss in before:
            state = optuna.trial.TrialState.FAIL if loss is None else optuna.trial.TrialState.COMPLETE
            self._study.add_trial(
                optuna.trial.create_trial(params=hyper, distributions=self._space, value=loss, state=state)
            )

    def ask(self) -> tuple[int, Hyper]:
        """The next trial's number and hyper-parameters."""
        asked = self._study.ask(self._space)
        return asked.number + self._ahead, dict(asked.params)

    def tell(self, number: int, loss: float | None) -> None:
        """Tell the result of a trial: the smaller, the better; None: it failed."""
        import optuna

        self._study.tell(number - self._ahead, loss, state=optuna.trial.TrialState.FAIL if loss is None else None)


def _distribution(name: str, tried: Range | Values) -> BaseDistribution:
    from optuna import distributions

    whole = name in WHOLE
    if not isinstance(tried, Range):
        return distributions.CategoricalDistribution([int(value) if whole else value for value in tried])
    kind: Any = distributions.IntDistribution if whole else distributions.FloatDistribution
    low, high = (int(tried.low), int(tried.high)) if whole else (tried.low, tried.high)
    found: BaseDistribution = kind(low, high, log=tried.log)
    return found
