"""The released quantization grid, kept where that costs no accuracy: what has not moved costs devices nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from model_compiler.build import grid
from model_compiler.build.artifacts import Artifact, float_bases
from model_compiler.build.prepared import Prepared
from model_compiler.evaluate import judging
from model_compiler.inputs.former_release import Former

if TYPE_CHECKING:
    pass

NOTE = "on the quantization grid of the release before"
COST = 0.5  # points of the metric that the grid may cost on the rows it is judged on
ROWS = 2000  # of these


def keep_grid(prepared: Prepared, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts, each that has an earlier one of its name on that one's grid, unless this costs accuracy.

    Judged on the tuning data (else the calibration set), never on the validation set. Where the request says `on_grid`
    the grid is kept whatever it costs: the verdict says how much that is.
    """
    former = prepared.request.before()
    written = {} if former is None else _written(former, artifacts)
    if not written:
        return list(artifacts)
    if not prepared.request.on_grid:
        worth = _worth(prepared, artifacts, written)
        written = {name: artifact for name, artifact in written.items() if name in worth}
    return [written.get(artifact.name, artifact) for artifact in artifacts]


def _written(former: Former, artifacts: Sequence[Artifact]) -> dict[str, Artifact]:
    bases, models = float_bases(artifacts), {artifact.name: artifact.model for artifact in artifacts}
    found = {}
    for artifact in artifacts:
        base, released = models.get(bases.get(artifact.name, "")), former.file_of(artifact.name)
        if base is None or released is None or artifact.target.runtime != "litert":
            continue
        model = grid.write(released, base)
        if model is not None and model != artifact.model:
            found[artifact.name] = replace(artifact, model=model, notes=(*artifact.notes, NOTE))
    return found


def _worth(prepared: Prepared, artifacts: Sequence[Artifact], written: dict[str, Artifact]) -> set[str]:
    """Those whose metric on the grid is not worse by more than `COST` points."""
    data = (prepared.tuning or prepared.calibration).take(slice(ROWS))
    if data.y is None:
        return set()
    asked = [artifact for artifact in artifacts if artifact.name in written]
    both = [*asked, *(replace(artifact, name=f"{artifact.name} kept") for artifact in written.values())]
    ran, _ = judging.run(both, data, prepared.outputs, prepared.metric, non_finite=prepared.request.loose())
    values = {item.artifact.name: prepared.metric.measure(item.outputs, data.labels)[0] for item in ran}
    return {
        name
        for name in written
        if name in values
        and f"{name} kept" in values
        and prepared.metric.points(values[f"{name} kept"], values[name]) <= COST
    }
