"""From trained networks to a release directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cloud_hub.errors import InvalidError
from cloud_hub.training.checking import refused
from cloud_hub.training.handed import Released
from cloud_hub.training.run import Parts, RunRequest, lineage_of, onnx_of
from fleet.protocol.manifest import Gate

if TYPE_CHECKING:
    from torch import nn


def compile_run(
    request: RunRequest,
    parts: Parts,
    *,
    teacher: nn.Module,
    student: nn.Module,
    labels: Sequence[str],
    current: Released | None,
    progress: Callable[[str], None],
    out: Path,
) -> None:
    """Compile into `out`, with the gate of the current release and the request's contract.

    Args:
        parts: the run's data, its inputs called as in the release.
        labels: the class names.
        current: the release that devices come from.

    Raises:
        ConflictError: the release would not keep the model's interface.
        InvalidError: the compiler refuses it, with its reason.
    """
    from model_compiler.data import make_dataset
    from model_compiler.errors import CompilerError, InterfaceError
    from model_compiler.pipeline import compile_release
    from model_compiler.request import CompileRequest

    shutil.rmtree(out, ignore_errors=True)
    contract = request.contract
    loose = contract.non_finite if contract is not None else frozenset[str]()
    lineage = lineage_of(request)
    if current is not None:
        lineage = msgspec.structs.replace(lineage, parents=(f"release {current.number}",))
    recipe = request.loaded.recipe
    try:
        compile_release(
            CompileRequest(
                calibration=make_dataset(
                    parts.calibration.inputs, parts.calibration.y, "calibration", non_finite=loose
                ),
                validation=make_dataset(parts.validation.inputs, parts.validation.y, "validation", non_finite=loose),
                non_finite=tuple(sorted(loose)),
                targets=recipe.targets,
                out=out,
                module=student,
                cloud=onnx_of(teacher, parts.train.inputs, parts.outputs),
                labels=labels,
                inputs=tuple(parts.train.inputs),
                outputs=parts.outputs,
                interface=contract.interface if contract is not None else None,
                encoder=contract.encoder if contract is not None else None,
                gate=current.manifest.gate if current is not None else Gate(),
                search=True,
                tuning=make_dataset(parts.train.inputs, parts.train.y, "training", non_finite=loose),
                lineage=lineage,
                seed=request.seed,
                progress=progress,
            )
        )
    except CompilerError as error:
        if contract is not None and isinstance(error, InterfaceError):
            raise refused(contract, str(error)) from error
        raise InvalidError(f"the compiler refuses it: {error}", subject="compile", hint=error.hint) from error
