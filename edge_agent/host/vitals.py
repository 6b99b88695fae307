"""The machine's vital signs, from files in which Linux shows them: some dozen microseconds a reading, and no thread.

Elsewhere, and in a container that hides them, the missing ones are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fleet.protocol.vitals import COLDEST, HOTTEST, MOST_BYTES, Vitals

SENSORS = 32  # of a machine, that are read
APART_S = 5.0  # two looks at the processors: a share of less time says little
KEPT_S = 1.0  # a reading: one look at `/metrics` asks for each of its numbers
KIB = 1024


class VitalSigns:
    """Reads them; the disk is that of `directory`, `root` is where `proc` and `sys` are."""

    def __init__(
        self, directory: Path, *, root: Path = Path("/"), monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory, self._proc = directory, root / "proc"
        self._monotonic = monotonic
        zones = sorted((root / "sys" / "class" / "thermal").glob("thermal_zone*"))
        self._sensors = [zone / "temp" for zone in zones[:SENSORS]]
        self._cpu: float | None = None
        self._spent, self._at = self._processors(), monotonic()
        self._told: tuple[float, Vitals] | None = None  # when, and what

    def read(self) -> Vitals:
        """Return the machine's present signs, or those read within `KEPT_S`; `cpu` is of at least `APART_S` before."""
        now = self._monotonic()
        if self._told is None or now - self._told[0] >= KEPT_S:
            self._told = now, self._look()
        return self._told[1]

    def _look(self) -> Vitals:
        memory, memory_free = self._memory()
        disk, disk_free = self._disk()
        return Vitals(
            cpu=self._busy(),
            memory=memory,
            memory_free=memory_free,
            disk=disk,
            disk_free=disk_free,
            celsius=self._hottest(),
        )

    def _busy(self) -> float | None:
        now = self._monotonic()
        if now - self._at < APART_S:
            return self._cpu
        before, self._spent, self._at = self._spent, self._processors(), now
        if before is None or self._spent is None:
            return None
        busy, whole = (new - old for new, old in zip(self._spent, before, strict=True))
        self._cpu = min(max(busy / whole, 0.0), 1.0) if whole > 0 else None  # counters of a suspended guest may go back
        return self._cpu

    def _processors(self) -> tuple[int, int] | None:
        """Ticks that all processors were busy, and all of their ticks (proc_stat(5)); a guest's are in `user`."""
        try:
            words = _first_line(self._proc / "stat").split()[1:9]
            ticks = [int(word) for word in words]
        except (OSError, ValueError):
            return None
        idle = sum(ticks[3:5])
        return sum(ticks) - idle, sum(ticks)

    def _memory(self) -> tuple[int | None, int | None]:
        found: dict[str, int] = {}
        try:
            for line in (self._proc / "meminfo").read_text("ascii", "replace").splitlines()[:8]:
                name, _, rest = line.partition(":")
                if name in ("MemTotal", "MemAvailable"):
                    found[name] = int(rest.split()[0]) * KIB
        except (OSError, ValueError, IndexError):
            return None, None
        return _within(found.get("MemTotal"), found.get("MemAvailable"))

    def _disk(self) -> tuple[int | None, int | None]:
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return None, None
        return _within(found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail)

    def _hottest(self) -> float | None:
        return max(_degrees(self._sensors), default=None)


def _within(whole: int | None, free: int | None) -> tuple[int | None, int | None]:
    """Both where they are what a hub takes; file systems of a network may tell anything."""
    if whole is None or free is None or not 0 <= free <= whole <= MOST_BYTES:
        return None, None
    return whole, free


def _degrees(sensors: Iterable[Path]) -> Iterable[float]:
    for sensor in sensors:
        try:
            celsius = int(_first_line(sensor)) / 1000  # Documentation/driver-api/thermal/sysfs-api: millidegrees
        except (OSError, ValueError):  # a sensor that is off
            continue
        if COLDEST <= celsius <= HOTTEST:
            yield celsius


def _first_line(path: Path) -> str:
    with path.open(encoding="ascii", errors="replace") as file:
        return file.readline(4096)
