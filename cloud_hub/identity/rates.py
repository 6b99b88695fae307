"""Bounds how often callers ask: a token bucket each, and each hub's share of a rate that several hubs give. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct

from cloud_hub.errors import RateError

MOST_BUCKETS = 10_000  # callers with a rate that are counted at a time
MOST_TOLD = 1_000  # of which the others are told, those that ask most first
TOLD_FROM = 0.1  # of its rate, at which a caller is told of: below it, ten hubs together let it no more than its rate


class Bucket(Struct):
    """The tokens that a caller has left, counted at `at` (seconds), and its requests since they were last told."""

    level: float
    at: float
    rate_per_s: float
    asked: int = 0


class RateLimiter:
    """A token bucket per caller, holding one second's worth; time comes in as seconds.

    Where several hubs answer a caller, each lets it have a share of its rate, as large as the part of its requests
    that come here: `told` says what others were asked, and `tell` what they should know of this hub.

    At most `most` buckets are kept. The one that was used least recently goes first; when it was used a second ago
    it is full again, which is what a new one would be.
    """

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self._most = most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._shares: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, rate_per_s: float, now: float) -> None:
        """Count one call.

        Args:
            key: the caller's.
            rate_per_s: calls per second, of all hubs together.
            now: Unix seconds.

        Raises:
            RateError: the caller is over its rate.
        """
        share = rate_per_s * self._shares.get(key, 1.0)
        burst = max(1.0, share)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(burst, now, rate_per_s)
        # A clock that is set back takes nothing away.
        level = min(burst, bucket.level + max(0.0, now - bucket.at) * share)
        enough = level >= 1.0
        bucket.level, bucket.at, bucket.rate_per_s = (level - 1.0 if enough else level), now, rate_per_s
        bucket.asked += 1
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if not enough:
            raise RateError(
                f"more than {rate_per_s:g} requests per second", subject=key, hint="slow down, or ask for a higher rate"
            )

    def tell(self, seconds: float) -> dict[str, float]:
        """Requests per second by caller since the last call, `seconds` ago, as far as others have to know of them."""
        asked = {}
        for key, bucket in self._buckets.items():
            per_s, bucket.asked = bucket.asked / seconds, 0
            if per_s >= TOLD_FROM * bucket.rate_per_s:
                asked[key] = per_s
        if len(asked) > MOST_TOLD:
            asked = dict(sorted(asked.items(), key=lambda item: -item[1])[:MOST_TOLD])
        return asked

    def told(self, mine: Mapping[str, float], others: Mapping[str, float]) -> None:
        """Set each caller's part of its rate.

        A caller within its rate is held to no part, since its requests come to hubs unevenly. One request more is
        counted here, so that a caller who comes to a hub for the first time gets an answer.

        Args:
            mine: requests per second to this hub, by caller; what `tell` returned.
            others: those to all other hubs together.
        """
        self._shares = {
            key: (mine.get(key, 0.0) + 1.0) / (mine.get(key, 0.0) + 1.0 + asked)
            for key, asked in others.items()
            if key in self._buckets and mine.get(key, 0.0) + asked > self._buckets[key].rate_per_s
        }
