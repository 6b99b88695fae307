"""The application on each device: it sends digits to its agent's API and remembers every answer.

Also the exam: the same API, on images that are never trained on, labelled or sampled.
"""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import urllib3

from fleet.protocol import oip

PATIENCE_S = 20.0  # how long an application waits for its agent to be restarted


@dataclass
class Digits:
    """Images float32 (n, 8, 8) or (n, 1, 8, 8) in [0, 1], and their labels int (n,)."""

    x: np.ndarray
    y: np.ndarray


@dataclass
class Tally:
    """The counts of requests and answers so far. A request has failed when no good answer came within the patience."""

    total: int = 0
    failed: int = 0
    retried: int = 0
    degraded: int = 0
    served_by: Counter[str] = field(default_factory=Counter)
    latencies_us: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)


class Application:
    """One application beside one agent: asks, measures, and asks again while the agent restarts."""

    def __init__(self, port: int, model: str, input_name: str) -> None:
        self._url = f"/v2/models/{model}/infer"
        self._input = input_name
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=1, retries=False, timeout=10.0)
        self.tally = Tally()

    def ask(self, image: np.ndarray, parameters: dict[str, object] | None = None) -> oip.InferResponse | None:
        """One request with the image as a batch of one; None when it failed."""
        tensor = oip.TensorValue(self._input, image[None].astype(np.float32))
        body, header_length = oip.encode_request(oip.InferRequest(inputs=(tensor,), parameters=dict(parameters or {})))
        headers = {"Content-Type": "application/octet-stream", oip.HEADER: str(header_length)}
        self.tally.total += 1
        give_up = time.monotonic() + PATIENCE_S
        while True:
            start = time.perf_counter()
            try:
                answer = self._pool.request("POST", self._url, body=body, headers=headers)
            except urllib3.exceptions.HTTPError as error:
                if time.monotonic() > give_up:
                    self._fail(type(error).__name__)
                    return None
                self.tally.retried += 1
                time.sleep(0.02)
                continue
            elapsed_us = (time.perf_counter() - start) * 1e6
            if answer.status != 200:
                self._fail(f"HTTP {answer.status}: {answer.data[:200]!r}")
                return None
            return self._count(answer, elapsed_us)

    def _fail(self, problem: str) -> None:
        self.tally.failed += 1
        self.tally.problems[problem] += 1

    def _count(self, answer: urllib3.BaseHTTPResponse, elapsed_us: float) -> oip.InferResponse:
        length = answer.headers.get(oip.HEADER)
        response = oip.decode_response(answer.data, int(length) if length else None)
        served_by = str(response.parameters.get("served_by", "unknown"))
        self.tally.served_by[served_by] += 1
        self.tally.degraded += bool(response.parameters.get("degraded"))
        if served_by == "edge":
            self.tally.latencies_us.append(elapsed_us)
        return response


def predicted(response: oip.InferResponse) -> int:
    """The class of the first output's first row."""
    return int(np.argmax(response.outputs[0].array.reshape(-1)))


class DemoTraffic:
    """One thread per agent that sends images drawn at random, at a steady rate, until stopped."""

    def __init__(
        self, ports: list[int], model: str, input_name: str, pool: Digits, *, rate_hz: float, seed: int
    ) -> None:
        self.applications = [Application(port, model, input_name) for port in ports]
        self._pool = pool
        self._interval_s = 1.0 / rate_hz
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._drive, args=(application, np.random.default_rng([seed, index])), daemon=True)
            for index, application in enumerate(self.applications)
        ]

    def start(self) -> None:
        """Start sending."""
        for thread in self._threads:
            thread.start()

    def use(self, pool: Digits) -> None:
        """From now on draw from `pool` (the camera slipped)."""
        self._pool = pool

    def stop(self) -> None:
        """Stop sending; every request under way is answered first."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    @property
    def total(self) -> int:
        """Requests sent so far."""
        return sum(application.tally.total for application in self.applications)

    @property
    def failed(self) -> int:
        """Requests that failed so far."""
        return sum(application.tally.failed for application in self.applications)

    def _drive(self, application: Application, rng: np.random.Generator) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            pool = self._pool
            application.ask(pool.x[int(rng.integers(len(pool.x)))])
            due = max(due + self._interval_s, time.monotonic())
            self._stop.wait(max(0.0, due - time.monotonic()))


ROUTES = {"served": "auto", "edge_only": "edge", "cloud": "cloud"}


def exam(
    ports: list[int], model: str, input_name: str, digits: Digits, what: tuple[str, ...] = ("edge_only", "served")
) -> dict[str, float]:
    """Accuracy through the agents' API: `served` is what applications get, `edge_only` and `cloud` one side alone.

    The requests carry `observe: false`, so that no exam image is sampled, audited or sketched. The
    answer also holds `failed`, the number of requests without a good answer.
    """
    applications = [Application(port, model, input_name) for port in ports]
    hits: Counter[str] = Counter()
    for index, (image, label) in enumerate(zip(digits.x, digits.y, strict=True)):
        application = applications[index % len(applications)]
        for name in what:
            response = application.ask(image, {"observe": False, "route": ROUTES[name]})
            hits[name] += response is not None and predicted(response) == int(label)
    failed = sum(application.tally.failed for application in applications)
    return {**{name: hits[name] / len(digits.y) for name in what}, "failed": float(failed)}


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 of nothing."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=1000, method="inclusive")[min(998, int(share * 1000) - 1)]


def image_key(data: bytes) -> str:
    """Return the key by which the annotator recognises an image: the SHA-256 of its float32 bytes."""
    return hashlib.sha256(data).hexdigest()
