"""Drift: has the world moved away from what a model was promoted on?

week      pure: the hours and days of a stream, once there are weeks
baseline  pure: what is usual for one stream; `signed` the test against it, `streams` and `watch` many of them
company   pure: the other devices' moves while one moves
engine    from telemetry windows to monitors and alarms
explain   an alarm in words
meaning   pure: how right answers are, against the release's own record
truth     from audits and labels to that record
quality   pure: what is broken in a window's inputs; `outliers` likewise, `bets` the test of both
inputs    from windows to the watch over both, device by device; `input_alarms` their alarms
features  pure: which features moved; `explaining` adds them to an alarm
response  what follows an alarm: samples, labels, a retrain
policy    a model's settings
trouble   models whose drift cannot be watched now
monitors  monitors and alarms as the API shows them
"""

from __future__ import annotations

from cloud_hub.drift.engine import services

__all__ = ["services"]
