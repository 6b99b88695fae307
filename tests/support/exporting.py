"""Exports from torch that read the exporter's 500 translations once in a process, and not at every export.

What there is to translate with does not change while a process runs; to parse the sources of all and to derive their
signatures takes almost half of the export of a small model.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

_REGISTRATION = "torch.onnx._internal.exporter._registration"


def remember_translations() -> None:
    """Give each export a copy of the exporter's registry that the first has made, once somebody has loaded torch."""
    registry = getattr(sys.modules.get(_REGISTRATION), "ONNXRegistry", None)
    reading = vars(registry).get("from_torchlib") if registry else None
    if not isinstance(reading, classmethod):
        return
    kept = functools.cache(reading.__get__(None, registry))

    def from_torchlib(*arguments: Any, **options: Any) -> Any:
        first = kept(*arguments, **options)
        made = registry()
        made.__dict__ |= vars(first)
        made.functions = {target: [*found] for target, found in first.functions.items()}  # an export may add its own
        return made

    registry.from_torchlib = staticmethod(from_torchlib)
