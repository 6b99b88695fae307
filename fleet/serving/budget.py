"""The bytes that all connections of a listener may hold at one time: bodies that are not answered, answers not sent."""

from __future__ import annotations


class ByteBudget:
    """For one event loop. `taken` is what is held now, at most `limit` but for what cannot be refused any more."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def fits(self, count: int) -> bool:
        """Tell whether there is room for `count` more bytes."""
        return self.taken + count <= self.limit

    def full(self, count: int) -> str:
        """Return the message for a caller who needs `count` more bytes than there are."""
        return (
            f"the bodies of other requests hold {self.taken} of {self.limit} bytes; this one needs {count}; try again"
        )
