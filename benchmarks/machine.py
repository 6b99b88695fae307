"""The machine that figures were measured on, for the files in `results`."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def machine(*packages: str) -> dict[str, Any]:
    """Processor, interpreter, kernel, load of the last minutes, and the versions of some packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "cpu": cpu[0] if cpu else "",
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load": [round(x, 2) for x in os.getloadavg()],
        **{name: metadata.version(name) for name in packages or ("numpy", "ai-edge-litert", "msgspec")},
    }
