"""Rollouts of thousands of simulated devices: `python benchmarks/fleet.py`; see `rollout_load`, which does the work.

Python looks for modules in a script's folder first. So every other script here, and whatever it imports, finds this
file where it means the package `fleet`, and is given that.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from benchmarks.rollout_load import main

    main()
elif __name__ == "fleet":
    __path__ = [str(ROOT / "fleet")]
    exec(compile((ROOT / "fleet" / "__init__.py").read_bytes(), ROOT / "fleet" / "__init__.py", "exec"))
