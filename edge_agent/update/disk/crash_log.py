"""Loads that ended the agent: begun, and never come to an end, good or bad.

A runtime is native code. After an upgrade of it, or on another processor, a release that has served for a year may
take the process with it while it is loaded, at each start anew, and with the process all other models and the way to
an update. So what is being loaded stands in `loading.json`, and what ended the agent `MOST` times in a row is not
loaded any more: the release before it serves, until the machine starts anew or agent or runtime are another version.

The file is written without fsync and is of one boot: it outlives the process, and a power loss is no crash.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from edge_agent import VERSION
from edge_agent.errors import ActivationError
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

MOST = 3
LIMIT = 1 << 20
FILE = "loading.json"


class Begun(Struct, frozen=True, kw_only=True):
    """A load that was begun, for the `times`-th time in a row; `by`: see `loader`."""

    model: str
    held: HeldRelease
    by: str
    times: int = 1


class CrashLog:
    """One per agent's directory. `by` is the `loader`; of what another one did nothing is known."""

    def __init__(self, directory: Path, by: str) -> None:
        self._path, self._by = directory / FILE, by
        # Loads in the file have ended the process before this one; those that this one begins are no suspects to it.
        self._before = {(one.model, one.held): one for one in _read(self._path) if one.by == by}
        self._now = dict(self._before)

    def suspected(self, model: str) -> bool:
        """Tell whether the agent ended while it loaded a release of the model, and none of it has been loaded since."""
        return any(name == model for name, _ in self._before)

    def check(self, model: str, held: HeldRelease) -> None:
        """Raise ActivationError (`crash-loop`) when `held` must not be loaded any more."""
        before = self._before.get((model, held))
        if before is None or before.times < MOST:
            return
        raise ActivationError(
            f"the agent ended {before.times} times while it loaded release {held.release}",
            subject=model,
            reason="crash-loop",
            hint="it is loaded again after the next boot, or by another version of the agent or a runtime",
        )

    @contextlib.contextmanager
    def loading(self, model: str, held: HeldRelease) -> Iterator[None]:
        """Around a load of `held`."""
        key = (model, held)
        before = self._before.get(key)
        times = before.times + 1 if before is not None else 1
        self._keep({**self._now, key: Begun(model=model, held=held, by=self._by, times=times)})
        try:
            yield
        finally:
            self._before.pop(key, None)
            self._keep({other: one for other, one in self._now.items() if other != key})

    def _keep(self, now: dict[tuple[str, HeldRelease], Begun]) -> None:
        self._now = now
        try:
            self._path.write_bytes(encode_json([*now.values()])) if now else self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be written, so nobody remembers a load that ends the agent: %s", self._path, error)


def loader(runtimes: Mapping[str, str], boot: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """Name the one who loads: this boot of the machine, and the versions of the agent and its runtimes."""
    try:
        booted = boot.read_text().strip()
    except OSError:
        booted = ""
    return str({"boot": booted, "agent": VERSION, **runtimes})


def _read(path: Path) -> list[Begun]:
    try:
        return decode_json(path.read_bytes(), list[Begun], limit=LIMIT, subject=str(path))
    except FileNotFoundError:
        return []
    except (OSError, ProtocolError) as error:  # torn, or of another version: nothing is known of any load
        log.warning("%s is not read: %s", path, error)
        return []
