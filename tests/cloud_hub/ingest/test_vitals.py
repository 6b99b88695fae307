"""An hour of a machine's vital signs: summed up, kept in a table, and shown by the API, with the same fields."""

from __future__ import annotations

import msgspec

from cloud_hub.ingest.vitals import VitalsSum, add
from cloud_hub.store.tables import VitalsHourRow
from fleet.api.vitals import VitalsHour
from fleet.protocol.durations import HOUR_S
from fleet.protocol.vitals import Vitals


def test_the_sum_the_table_and_the_api_have_the_same_fields() -> None:
    shown = set(VitalsHour.model_fields)
    assert {field.name for field in msgspec.structs.fields(VitalsSum)} - {"readings"} == shown
    assert set(VitalsHourRow.model_fields) - {"device_id"} == shown


def test_an_hour_that_is_over_is_shown_as_it_was_summed_up() -> None:
    first, _ = add({}, Vitals(cpu=0.2, memory=9, memory_free=5, celsius=40.0), HOUR_S)
    second, _ = add(msgspec.to_builtins(first), Vitals(cpu=0.4, memory_free=3), HOUR_S + 60)
    _, over = add(msgspec.to_builtins(second), Vitals(), 2 * HOUR_S)
    shown = VitalsHour.model_validate(over)
    assert (shown.begins, shown.heartbeats, shown.cpu_most, shown.memory, shown.memory_free) == (HOUR_S, 2, 0.4, 9, 3)
    assert shown.cpu is not None and abs(shown.cpu - 0.3) < 1e-9 and shown.disk is None
