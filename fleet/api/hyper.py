"""Hyper-parameters of a recipe's training: those of one run, and what a search tries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fleet.api.base import RequestModel
from fleet.api.types import Finite

HyperName = Literal[
    "teacher_epochs",
    "student_epochs",
    "batch",
    "teacher_rate",
    "student_rate",
    "weight_decay",
    "distill_temperature",
    "soft_share",
    "sample_repeats",
    "warm_share",
    "warm_epochs",
]
WHOLE = ("teacher_epochs", "student_epochs", "batch", "sample_repeats", "warm_epochs")

Epochs = Annotated[int | None, Field(ge=1, le=100_000)]
Rate = Annotated[float | None, Field(ge=1e-12, le=10)]
Share = Annotated[float | None, Field(ge=0, le=1)]


class HyperOptions(RequestModel):
    """Numbers of a run in place of the recipe's own (`Hyper`); null: the recipe's."""

    teacher_epochs: Epochs = None
    student_epochs: Epochs = None
    batch: Annotated[int | None, Field(ge=1, le=1 << 20)] = None
    teacher_rate: Rate = None
    student_rate: Rate = None
    weight_decay: Annotated[float | None, Field(ge=0, le=10)] = None
    distill_temperature: Annotated[float | None, Field(ge=1e-3, le=1000)] = None
    soft_share: Share = None
    sample_repeats: Annotated[int | None, Field(ge=0, le=1000)] = None
    warm_share: Share = None
    warm_epochs: Epochs = None

    @property
    def given(self) -> dict[str, float]:
        """Those that are not the recipe's."""
        return self.model_dump(exclude_none=True)


class Range(RequestModel):
    """From `low` to `high`, both among them; `log`: small ones are as likely as large ones."""

    low: Finite
    high: Finite
    log: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where log is set")
        return self


Values = Annotated[list[Finite], Field(min_length=1, max_length=32)]
Space = Annotated[dict[HyperName, Range | Values], Field(min_length=1, max_length=16)]


def check_space(space: Space) -> Space:
    """Return the space; ValueError where a number in it could not be given for one run."""
    for name, tried in space.items():
        for value in (tried.low, tried.high) if isinstance(tried, Range) else tried:
            if name in WHOLE and value != int(value):
                raise ValueError(f"{name}: {value:g} is no whole number")
            HyperOptions.model_validate({name: int(value) if name in WHOLE else value})
    return space
