"""A zygote whose wall clock is in a file: `python -m tests.support.faults.clocked FILE`.

The file holds seconds: `+N` or `-N` from the right time, or a moment of its own. The clock is replaced before
the agent is imported, so that every `time.time` there is this one, also in the children. (libfaketime, which
would do the same from outside, waits for ever in a process that was forked while another thread asked the time.)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

_right = time.time
_file = Path(sys.argv[1])


def shown() -> float:
    """The time on the wall."""
    said = _file.read_text()
    return (_right() if said[:1] in "+-" else 0.0) + float(said)


time.time = shown

if __name__ == "__main__":
    from tests.support.faults.zygote import main

    main()
