"""One trial of a search over hyper-parameters, as an executor runs it: train as a retrain would, and score.

It is scored on the recipe's validation set. The human labels that a retrain's gate holds out stay unseen here, too, so
that a search cannot choose what passes the gate by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_hub.errors import InvalidError
from cloud_hub.execution.port import Progress
from cloud_hub.training.dealing import deal_run
from cloud_hub.training.handed import Handed
from cloud_hub.training.recipe import load_recipe, with_epochs, with_hyper
from cloud_hub.training.run import settle_run
from cloud_hub.training.run_request import RunRequest
from cloud_hub.training.teacher_student import train_student, train_teacher

ENTRY = "cloud_hub.training.trial:trial"


def trial(folder: Path, arguments: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train the recipe's student (and its teacher) with the hyper-parameters `hyper`.

    Args:
        folder: as `handing.hand_in` wrote it.
        arguments: those of `work.retrain`, `hyper` by name, and the `share` of its epochs that each network gets.

    Returns:
        `score` by the task's metric, whose name is `metric`; `higher_is_better`; `rows` that it was measured on.

    Raises:
        InvalidError: the recipe, the data or the numbers do not fit, or the score is no number.
    """
    handed = Handed(folder)
    loaded = load_recipe(arguments["recipe"], folder=Path(arguments["recipes"]))
    request = RunRequest(
        loaded=with_epochs(with_hyper(loaded, arguments["hyper"]), arguments.get("share", 1.0)),
        out=folder,
        seed=arguments["seed"],
        contract=handed.contract(arguments["model"], arguments["fixed"]),
        snapshot=handed.snapshot,
        start=handed.start,
        released=handed.student,
        progress=progress,
    )
    settled = settle_run(request)
    parts = deal_run(request, settled)
    student = train_student(request, parts, settled, train_teacher(request, parts, settled))
    progress("scoring", 1.0)
    rows = settled.sets.validation.with_labels()
    score = float(settled.metric.measure(student.answers(rows.inputs), rows.y)[0])
    if not math.isfinite(score):
        raise InvalidError(f"the {settled.metric.name} is {score}", subject="trial", hint="try smaller learning rates")
    metric = settled.metric
    return {"score": score, "metric": metric.name, "higher_is_better": metric.higher_is_better, "rows": len(rows)}
