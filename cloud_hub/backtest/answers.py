"""An operator's answer to the alarms of a backtest, said beforehand. Pure."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Then(StrEnum):
    """The act that follows an alarm."""

    rebaseline = "rebaseline"
    usual = "usual"
    close = "close"
    keep = "keep"


class OperatorAnswer(Struct, frozen=True, kw_only=True):
    """An operator's answer to alarms, `after_s` after one was raised; a label comes `label_s` after its request."""

    then: Then
    after_s: float
    label_s: float = 0.0
