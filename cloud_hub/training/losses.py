"""The losses that the kit's loop minimises, by task; a recipe may bring its own.

classification  cross-entropy; the teacher's softened answers beside it (Hinton, Vinyals and Dean, 2015, "Distilling
                the Knowledge in a Neural Network")
multi-label     binary cross-entropy of every class, against labels and the teacher's probabilities
regression      mean squared error, or `mae`, or `huber` (Huber, 1964), against labels and the teacher's values
anomaly-score   binary cross-entropy of the score's distance from the threshold
others          their recipe's own loss
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cloud_hub.errors import InvalidError
from fleet.protocol.task import CLASSIFICATION, TaskSpec

NUMBERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "": functional.mse_loss,
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}


@dataclass(frozen=True)
class Batch:
    """Rows of a batch: inputs by name (b, …), labels `y` (b, …), which of them are known, bool (b,), and what the
    teacher answers (by output, its first output first; None without a teacher)."""

    inputs: Mapping[str, Tensor]
    y: Tensor
    known: Tensor
    soft: Tensor | None = None


Loss = Callable[[Any, Batch], Tensor]


@dataclass(frozen=True)
class Weights:
    """The weight of the teacher's soft answers beside labels."""

    temperature: float = 2.0
    soft_share: float = 0.0


def loss_of(spec: TaskSpec | None, asked: str | Loss, weights: Weights) -> Loss:
    """The loss of a task; None is a classification.

    Args:
        spec: the task.
        asked: the recipe's: a function (answer of the student's `forward`, batch) -> tensor; a name of a regression's
            loss; empty for the task's own.

    Raises:
        InvalidError: the task has none of its own, or not of that name.
    """
    if callable(asked):
        return asked
    name = spec.name if spec is not None else CLASSIFICATION
    if asked and (name != "regression" or asked not in NUMBERS):
        raise InvalidError(
            f"the recipe: a {name} has no loss {asked!r}",
            subject="recipe",
            hint="a regression has mse, mae and huber; else loss=function(answer, batch)",
        )
    if name == CLASSIFICATION:
        return lambda answer, batch: _classes(first(answer), batch, weights)
    if name == "multi-label":
        logits = spec is not None and spec.logits
        return _mixed(lambda a, y: _presence(a, y, logits=logits), weights, soft=torch.sigmoid if logits else None)
    if name == "regression":
        return _mixed(lambda a, y: NUMBERS[asked](a.reshape(y.shape), y), weights)
    if name == "anomaly-score":
        limit = (spec.threshold if spec is not None else None) or 0.0
        hard = functional.binary_cross_entropy_with_logits
        return _mixed(lambda a, y: hard(a.reshape(y.shape) - limit, y.to(a.dtype)), weights, soft=_over(limit))
    raise InvalidError(
        f"the recipe: a {name} has no loss of its own",
        subject="recipe",
        hint="give Recipe(loss=function(answer, batch)), or fit it yourself: Recipe(fit=function)",
    )


def first(answer: Any) -> Tensor:
    """The output that labels speak about."""
    if isinstance(answer, Tensor):
        return answer
    found: Tensor = next(iter(answer.values())) if isinstance(answer, Mapping) else answer[0]
    return found


def _classes(answers: Tensor, batch: Batch, weights: Weights) -> Tensor:
    labels = batch.y
    hard = _known(answers, batch, lambda a, y: functional.cross_entropy(a, y))
    if batch.soft is None:
        return hard
    heat = weights.temperature
    distance = functional.kl_div(
        functional.log_softmax(answers / heat, 1),
        functional.log_softmax(batch.soft / heat, 1),
        log_target=True,
        reduction="batchmean",
    )
    return weights.soft_share * heat * heat * distance + (1 - weights.soft_share) * hard if len(labels) else hard


def _mixed(
    hard: Callable[[Tensor, Tensor], Tensor], weights: Weights, soft: Callable[[Tensor], Tensor] | None = None
) -> Loss:
    """The loss against labels, and the same against the teacher's answers, which `soft` makes like labels."""

    def loss(answer: Any, batch: Batch) -> Tensor:
        answers = first(answer)
        labelled = _known(answers, batch, hard)
        if batch.soft is None:
            return labelled
        theirs = batch.soft if soft is None else soft(batch.soft)
        return weights.soft_share * hard(answers, theirs) + (1 - weights.soft_share) * labelled

    return loss


def _known(answers: Tensor, batch: Batch, hard: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    known = batch.known
    return hard(answers[known], batch.y[known]) if bool(known.any()) else answers.sum() * 0.0


def _presence(answers: Tensor, y: Tensor, *, logits: bool) -> Tensor:
    if logits:
        return functional.binary_cross_entropy_with_logits(answers, y.to(answers.dtype))
    return functional.binary_cross_entropy(answers.clamp(0.0, 1.0), y.to(answers.dtype))


def _over(limit: float) -> Callable[[Tensor], Tensor]:
    return lambda scores: torch.sigmoid(scores.reshape(-1) - limit)
