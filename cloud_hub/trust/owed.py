"""What is committed and not known to be in the object store. Publications push at the same time, each for itself."""

from __future__ import annotations

import threading


class Owed:
    """The version of the latest timestamp that devices do not see yet; 0: none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.version = 0

    def owe(self, version: int) -> None:
        """This version is committed."""
        with self._lock:
            self.version = max(self.version, version)

    def paid(self, version: int) -> None:
        """The store has this version: nothing is owed, unless a later one is, which it did not take meanwhile."""
        with self._lock:
            if self.version <= version:
                self.version = 0
