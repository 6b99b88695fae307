"""The counts of each model on a server, for the Open Inference Protocol's users: Triton's statistics extension.

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
    """Of one release since it was loaded. For any thread; times come in as seconds and are told in nanoseconds.

    A runtime takes its inputs and gives its outputs within its run, so `compute_input` and `compute_output` are
    counted and take no time of their own. Nothing is answered from a cache.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now  # Unix seconds
        self._lock = threading.Lock()
        self._rows = self._runs = self._requests_run = self._good = self._bad = 0
        self._last_s = self._run_s = self._good_s = self._bad_s = self._queued_s = 0.0
        self._sizes: dict[int, list[float]] = {}  # runs and seconds

    def succeeded(self, rows: int, seconds: float) -> None:
        """A request for `rows` rows was answered, so long after its first byte."""
        with self._lock:
            self._good += 1
            self._good_s += seconds
            self._rows += rows
            self._last_s = self._now()

    def failed(self, seconds: float) -> None:
        """A request was refused, came too late, or nobody could answer it."""
        with self._lock:
            self._bad += 1
            self._bad_s += seconds

    def queued(self, seconds: float) -> None:
        """Requests waited so long, together, until their run began."""
        with self._lock:
            self._queued_s += seconds

    def ran(self, rows: int, seconds: float, requests: int = 1) -> None:
        """The model ran once on `rows` rows, those of `requests` requests."""
        with self._lock:
            self._runs += 1
            self._requests_run += requests
            self._run_s += seconds * requests
            size = self._sizes.get(rows)
            if size is not None:
                size[0] += 1
                size[1] += seconds
            elif len(self._sizes) < SIZES:
                self._sizes[rows] = [1, seconds]

    def document(self, name: str, version: str) -> dict[str, Any]:
        """One item of `model_stats`."""
        with self._lock:
            computed, moved = _duration(self._requests_run, self._run_s), _duration(self._requests_run, 0.0)
            return {
                "name": name,
                "version": version,
                "last_inference": int(self._last_s * 1000),
                "inference_count": self._rows,
                "execution_count": self._runs,
                "inference_stats": {
                    "success": _duration(self._good, self._good_s),
                    "fail": _duration(self._bad, self._bad_s),
                    "queue": _duration(self._requests_run, self._queued_s),
                    "compute_input": moved,
                    "compute_infer": computed,
                    "compute_output": moved,
                    "cache_hit": _duration(0, 0.0),
                    "cache_miss": _duration(0, 0.0),
                },
                "batch_stats": [
                    {
                        "batch_size": rows,
                        "compute_input": _duration(int(count), 0.0),
                        "compute_infer": _duration(int(count), total),
                        "compute_output": _duration(int(count), 0.0),
                    }
                    for rows, (count, total) in sorted(self._sizes.items())
                ],
            }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * NS)}
