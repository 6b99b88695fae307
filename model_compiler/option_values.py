"""Reads single options into the values that a request has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from model_compiler.errors import CompilerError

if TYPE_CHECKING:
    from fleet.protocol.manifest import Gate, Lineage
    from fleet.protocol.task import TaskSpec
    from model_compiler.inputs.deferral_target import DeferTarget
    from model_compiler.metrics import Metric


def defer_of(error: float | None, cloud: float) -> DeferTarget:
    """The target of deferral; both are given in per cent."""
    from model_compiler.inputs.deferral_target import DeferTarget

    return DeferTarget(error=None if error is None else error / 100, cloud=cloud / 100)


def gate_of(
    max_drop: float | None,
    min_metric: float | None,
    min_agreement: float | None,
    max_class_drop: float | None,
    max_latency_ratio: float | None,
    *,
    by_bound: bool = False,
) -> Gate:
    """Return the gate's terms; None leaves a term out. `by_bound`: not the point, the interval has to keep them."""
    from msgspec import UNSET

    from fleet.protocol.manifest import Gate

    return Gate(
        max_drop_points=max_drop,
        min_metric=min_metric,
        min_agreement=min_agreement,
        max_class_drop=max_class_drop,
        max_latency_ratio=max_latency_ratio,
        judged_by="bound" if by_bound else UNSET,
    )


def features_of(texts: list[str] | None) -> dict[str, tuple[str, ...]]:
    """Names of features by input, "" for the only one; raises CompilerError for an empty name."""
    found = {}
    for text in texts or ():
        tensor, _, names = text.rpartition("=")
        found[tensor] = tuple(name.strip() for name in names.split(","))
        if not all(found[tensor]):
            raise CompilerError(f"--features {text!r}: a name is empty", hint="such as --features temperature,humidity")
    return found


def metric_of(text: str) -> Metric | None:
    """None where none is named."""
    from model_compiler.metrics import parse

    return parse(text) if text else None


def task_of(text: str) -> TaskSpec | None:
    """None where none is named."""
    from model_compiler.evaluate.tasking import parse

    return parse(text) if text else None


def lineage_of(path: Path | None) -> Lineage:
    """The lineage in a file; raises CompilerError where it holds none."""
    import msgspec

    from fleet.protocol.manifest import Lineage

    if path is None:
        return Lineage()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lineage)
    except (OSError, msgspec.DecodeError) as error:
        raise CompilerError(f"{path}: not a lineage file: {error}", subject=str(path)) from error
