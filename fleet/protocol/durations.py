"""Durations in seconds that have a name of their own."""

from __future__ import annotations

HOUR_S = 3_600
DAY_S = 86_400
