"""The promises of a release, and whether each is kept: `python benchmarks/statistics.py`; see `promises`, which does
the work.

Python looks for modules in a script's folder first. So every other script here, and whatever it imports, finds this
file where it means the standard library's, and is given that.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

if __name__ == "__main__":
    from benchmarks.promises import main

    main()
else:
    path = Path(sysconfig.get_path("stdlib"), "statistics.py")
    exec(compile(path.read_bytes(), path, "exec"))
