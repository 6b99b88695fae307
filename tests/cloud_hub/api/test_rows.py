"""Nothing that a table holds is lost on its way to the API, unless it is meant to stay inside."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_hub.devices.status import HIDDEN
from cloud_hub.store import tables
from fleet.api import audit, devices, drift, jobs, models, releases, rollouts, samples, tokens

SHOWN: list[tuple[Any, Any, set[str]]] = [
    (tables.AuditEntry, audit.AuditRecord, set()),
    (tables.Token, tokens.TokenInfo, {"secret_hash", "key_fingerprint"}),
    (tables.Device, devices.DeviceInfo, HIDDEN),
    (tables.DeviceModel, devices.DeviceModelInfo, {"device_id"}),
    (tables.DeviceEvent, devices.DeviceEventInfo, set()),
    (tables.SetAside, devices.SetAsideInfo, {"payload"}),
    (tables.Model, models.ModelInfo, set()),
    (tables.Release, releases.ReleaseInfo, {"manifest"}),
    (tables.RolloutRow, rollouts.RolloutInfo, set()),
    (tables.RolloutEvent, rollouts.RolloutEventInfo, set()),
    (tables.Alarm, drift.AlarmInfo, set()),
    (tables.DriftStream, drift.StreamInfo, {"model", "updated_at", "body"}),
    (tables.SampleRow, samples.SampleInfo, {"path", "deleted_at"}),
    (tables.Snapshot, samples.SnapshotInfo, set()),
    (tables.Job, jobs.JobInfo, {"owner", "lease_until"}),
]


@pytest.mark.parametrize(("table", "model", "hidden"), SHOWN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_column_is_shown_or_hidden_on_purpose(table: Any, model: Any, hidden: set[str]) -> None:
    columns = set(table.model_fields)
    assert hidden <= columns, "what is hidden is there"
    assert columns - hidden <= set(model.model_fields), "what is not hidden is shown"
    assert not hidden & set(model.model_fields)
