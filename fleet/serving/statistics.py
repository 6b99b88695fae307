"""What a server counts of each model, as the Open Inference Protocol's users read it: Triton's statistics extension.

Source: https://github.com/triton-inference-server/server, `docs/protocol/extension_statistics.md`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

SIZES = 64  # batch sizes that are told apart; runs of further ones count in the totals alone
NS = 1e9


class Statistics:
    """Of one release since it was loaded. For any thread; times come in as seconds and are kept as nanoseconds.

    A runtime takes its inputs and gives its outputs within its run, so `compute_input` and `compute_output` are
    counted and take no time of their own. Nothing is answered from a cache.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now  # Unix seconds
        self._lock = threading.Lock()
        self._rows = self._runs = self._run_ns = self._requests_run = 0
        self._last_s = 0.0
        self._good = self._bad = (0, 0)  # count and nanoseconds
        self._queued_ns = 0
        self._sizes: dict[int, tuple[int, int]] = {}

    def succeeded(self, rows: int, seconds: float) -> None:
        """A request for `rows` rows was answered, so long after its first byte."""
        with self._lock:
            self._good = self._good[0] + 1, self._good[1] + int(seconds * NS)
            self._rows += rows
            self._last_s = self._now()

    def failed(self, seconds: float) -> None:
        """A request was refused, came too late, or nobody could answer it."""
        with self._lock:
            self._bad = self._bad[0] + 1, self._bad[1] + int(seconds * NS)

    def queued(self, seconds: float) -> None:
        """Requests waited so long, together, until their run began."""
        with self._lock:
            self._queued_ns += int(seconds * NS)

    def ran(self, rows: int, seconds: float, requests: int = 1) -> None:
        """The model ran once on `rows` rows, those of `requests` requests."""
        took = int(seconds * NS)
        with self._lock:
            self._runs += 1
            self._requests_run += requests
            self._run_ns += took * requests
            count, total = self._sizes.get(rows, (0, 0))
            if count or len(self._sizes) < SIZES:
                self._sizes[rows] = count + 1, total + took

    def document(self, name: str, version: str) -> dict[str, Any]:
        """One item of `model_stats`."""
        with self._lock:
            computed, moved = _duration(self._requests_run, self._run_ns), _duration(self._requests_run, 0)
            return {
                "name": name,
                "version": version,
                "last_inference": int(self._last_s * 1000),
                "inference_count": self._rows,
                "execution_count": self._runs,
                "inference_stats": {
                    "success": _duration(*self._good),
                    "fail": _duration(*self._bad),
                    "queue": _duration(self._requests_run, self._queued_ns),
                    "compute_input": moved,
                    "compute_infer": computed,
                    "compute_output": moved,
                    "cache_hit": _duration(0, 0),
                    "cache_miss": _duration(0, 0),
                },
                "batch_stats": [
                    {
                        "batch_size": rows,
                        "compute_input": _duration(count, 0),
                        "compute_infer": _duration(count, total),
                        "compute_output": _duration(count, 0),
                    }
                    for rows, (count, total) in sorted(self._sizes.items())
                ],
            }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
