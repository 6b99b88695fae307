"""Work on a Ray cluster, for a worker: a child connects to it, so that nothing of Ray takes the worker along.

Ray ends the process that is connected to it when its head is lost for a minute, waits for minutes where nothing
answers, and takes over signals. Here all that happens to a child, which is begun again.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import msgspec

from cloud_hub.config_tables import WorkerConfig
from cloud_hub.errors import InvalidError
from cloud_hub.execution.child import ChildExecutor, limits_of
from cloud_hub.execution.messages import Failed
from cloud_hub.execution.on_ray import TRIES, Driven, Reservation
from cloud_hub.execution.port import Executor, Limits, NoClusterError, Progress, Work, WorkDiedError

DRIVE = "cloud_hub.execution.on_ray:drive"
POLITE_S = 60.0  # to end what runs on a node, which a busy one does slowly
ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


class ClusterExecutor:
    """Implements `Executor` on the Ray cluster at `address`, HOST:PORT; this machine must be one of its nodes."""

    def __init__(self, address: str, limits: Limits, asked: Reservation) -> None:
        """Raises InvalidError where Ray is not installed, or the address is none."""
        if importlib.util.find_spec("ray") is None:
            raise InvalidError(
                "a worker on a Ray cluster needs the extra [ray]", subject="ray", hint='pip install "edgeloop[ray]"'
            )
        found = ADDRESS.fullmatch(address)
        if found is None or not 0 < int(found[2]) < 1 << 16:
            raise InvalidError(
                f"{address!r} is no address of a Ray cluster", subject="ray", hint="HOST:PORT, as `ray start` says it"
            )
        self._address, self._limits, self._asked = address, limits, asked

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        """See Executor."""
        driven = Driven(
            address=self._address,
            asked=self._asked,
            limits=self._limits,
            entry=work.entry,
            given=dict(work.arguments),
            beside={name: str(path) for name, path in work.beside.items()},
        )
        driver = Work(DRIVE, work.folder, msgspec.to_builtins(driven))
        limits = Limits(disk_bytes=self._limits.disk_bytes, spare_disk_bytes=self._limits.spare_disk_bytes)
        for number in range(1, TRIES + 1):
            try:
                ended = ChildExecutor(limits, polite_s=POLITE_S).run(driver, progress=progress, check=check)
            except WorkDiedError as error:
                lost = error
                progress(f"lost the Ray cluster, {number} of {TRIES} tries", 0.0)
                continue
            if "failed" in ended:
                raise msgspec.convert(ended["failed"], Failed).error()
            result: dict[str, Any] = ended["result"]
            return result
        raise NoClusterError(
            f"the Ray cluster at {self._address} was lost {TRIES} times, at last so: {lost}",
            hint="see its head: `ray status`; what had come back stays in the job's folder",
        ) from lost


def executor_of(config: WorkerConfig) -> Executor:
    """Return the executor of jobs that `hub.toml` asks for: a child here, or the Ray cluster that it names."""
    if not config.ray:
        return ChildExecutor(limits_of(config))
    limits = Limits(config.wall_s, config.memory_bytes, config.disk_bytes, config.spare_disk_bytes)
    asked = Reservation(cpus=config.ray_cpus, gpus=config.ray_gpus, wait_s=config.ray_wait_s)
    return ClusterExecutor(config.ray, limits, asked)
