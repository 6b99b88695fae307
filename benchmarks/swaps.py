"""Updates of an agent that is busy, and of one that runs for long, against a real hub on this machine.

`python benchmarks/swaps.py` (about a quarter of an hour on two cores) asks a serving agent 200 times per
second through 50 updates, then updates an idle one 600 times, and writes `benchmarks/results/swaps.json`:
failed requests, the p99 of requests within a second of a swap over the p99 between swaps, the
growth of the serving process's memory in bytes per update, and whether TUF or cryptography were mapped into it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support import swaps


def swap(folder: Path, count: int, rate: float) -> dict[str, Any]:
    """Requests through `count` swaps."""
    with swaps.agent(folder, poll_s=4.0) as fleet:
        rows = swaps.stream_through(fleet, count, folder / "rows.json", rate=rate, rest_s=1.0)
    found = swaps.ratios(rows)
    moments = swaps.swapped_at(rows)
    between = [row for row in rows if min(abs(row.at - m) for m in moments) > swaps.AROUND_S]
    around = [row for row in rows if min(abs(row.at - m) for m in moments) <= swaps.AROUND_S]
    return {
        "swaps": len(found),
        "requests": len(rows),
        "failed": sum(not row.ok for row in rows),
        "rate_per_s": rate,
        "p99_between_ms": swaps.p99(between) * 1e3,
        "p99_around_ms": swaps.p99(around) * 1e3,
        "slowest_ms": max(row.took_s for row in rows) * 1e3,
        "ratio_median": median(found),
        "ratio_worst": max(found),
        "ratios": [round(ratio, 3) for ratio in found],
    }


def remember(folder: Path, count: int) -> dict[str, Any]:
    """Memory over `count` updates; the first tenth, in which pools fill, is shown but does not count."""
    with swaps.agent(folder, poll_s=0.2) as fleet:
        memory = swaps.memory_over(fleet, count)
        maps = fleet.maps()
    settled = memory[count // 10 :]
    return {
        "updates": count,
        "first_mib": memory[0] / 2**20,
        "settled_mib": settled[0] / 2**20,
        "last_mib": memory[-1] / 2**20,
        "slope_bytes_per_update": swaps.slope(settled),
        "slope_of_each_hundred": [round(swaps.slope(memory[i : i + 100])) for i in range(0, count - 99, 100)],
        "cryptography_mapped": "/cryptography/" in maps,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "swaps.json")
    options = parser.parse_args()
    start = time.monotonic()
    document: dict[str, Any] = {"cores": os.cpu_count(), "machine": platform.machine()}
    with tempfile.TemporaryDirectory() as folder:
        if options.swaps:
            document["stream"] = swap(Path(folder) / "stream", options.swaps, options.rate)
            print(json.dumps({k: v for k, v in document["stream"].items() if k != "ratios"}, indent=1), flush=True)
        if options.updates:
            document["memory"] = remember(Path(folder) / "memory", options.updates)
            print(json.dumps(document["memory"], indent=1), flush=True)
    document["seconds"] = round(time.monotonic() - start, 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
