"""The meaning of each kind of task, so that no other code asks for an arg-max.

    base       what every task says: answers, confidence, agreement, labels, summary
    classes    classification, multi-label
    values     regression, anomaly score, embedding
    detection  boxes with scores and classes, in the common layouts; boxes: their geometry
    custom     a task that only its owner understands, with a built-in agreement
    registry   tasks by name

Pure: arrays in, values out; numpy and `fleet.protocol` only. The device, the hub and the compiler use it alike.
"""

from __future__ import annotations

from fleet.tasks.base import Calibration, Reading, Task
from fleet.tasks.registry import NAMES, check_task, of, of_manifest, required_by

__all__ = ["NAMES", "Calibration", "Reading", "Task", "check_task", "of", "of_manifest", "required_by"]
