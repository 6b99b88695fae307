"""Drift, samples, snapshots, jobs, and the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlencode

from fleet.api.audit import AuditPage, AuditRecord
from fleet.api.drift import AlarmInfo, AlarmPage, MonitorInfo, MonitorPage
from fleet.api.jobs import JobInfo, JobPage, RetrainOptions
from fleet.api.samples import (
    DeletedSample,
    Labels,
    NewSnapshot,
    SampleDetail,
    SampleInfo,
    SampleLabel,
    SamplePage,
    SnapshotInfo,
    SnapshotPage,
    WrittenLabels,
)
from fleet.client.calls import UPLOAD_TIMEOUT_S, Calls, check, path_of


class SampleCalls(Calls):
    """Calls about what devices saw, and what is made of it."""

    def drift(self, *, model: str = "") -> list[MonitorInfo]:
        """The drift monitor of every model, or of `model`."""
        return list(self._items("/drift", MonitorPage, [("model", model)] if model else []))

    def alarms(self) -> list[AlarmInfo]:
        """Drift alarms, newest first."""
        return list(self._items("/alarms", AlarmPage))

    def close_alarm(self, alarm: int) -> AlarmInfo:
        """Close an alarm."""
        return self._post(path_of("alarms", alarm, "close"), None, AlarmInfo)

    def samples(
        self, *, model: str = "", reason: str = "", labelled: bool | None = None, limit: int | None = None
    ) -> Iterator[SampleInfo]:
        """Samples in the order of their ids.

        Args:
            model: only of this model.
            reason: only those recorded for this reason.
            labelled: only those with (without) a label.
            limit: at most this many.
        """
        query = [(key, value) for key, value in (("model", model), ("reason", reason)) if value]
        if labelled is not None:
            query.append(("labelled", "true" if labelled else "false"))
        return self._items("/samples", SamplePage, query, limit=limit)

    def sample(self, sample: str) -> SampleDetail:
        """One sample with its arrays."""
        return self._get(path_of("samples", sample), SampleDetail)

    def label_samples(self, labels: Mapping[str, int | float | str], *, by: str) -> WrittenLabels:
        """Write down what is true of samples (id -> label, such as a class by its number or name)."""
        body = Labels(labels=[SampleLabel(id=sample, label=label) for sample, label in labels.items()], by=by)
        return self._post("/samples/labels", body, WrittenLabels)

    def delete_sample(self, sample: str) -> DeletedSample:
        """Delete one sample for good."""
        return self._read(self._send("DELETE", path_of("samples", sample)), f"sample {sample}", DeletedSample)

    def export_samples(self, model: str) -> bytes:
        """Every sample of `model` as a Parquet file."""
        answer = self._send("GET", f"/samples/export?{urlencode({'model': model})}", timeout=UPLOAD_TIMEOUT_S)
        check(answer, f"samples of {model}")
        return answer.body

    def create_snapshot(self, model: str) -> SnapshotInfo:
        """Freeze a model's samples and labels into a dataset."""
        return self._post("/snapshots", NewSnapshot(model=model), SnapshotInfo, timeout=UPLOAD_TIMEOUT_S)

    def snapshots(self) -> list[SnapshotInfo]:
        """Every snapshot."""
        return list(self._items("/snapshots", SnapshotPage))

    def retrain(self, model: str, options: RetrainOptions) -> JobInfo:
        """Start a retrain job."""
        return self._post(path_of("models", model, "retrain"), options, JobInfo)

    def jobs(self) -> list[JobInfo]:
        """Every job, newest first."""
        return list(self._items("/jobs", JobPage))

    def job(self, job: str) -> JobInfo:
        """One job."""
        return self._get(path_of("jobs", job), JobInfo)

    def cancel_job(self, job: str) -> JobInfo:
        """Ask a job to stop."""
        return self._post(path_of("jobs", job, "cancel"), None, JobInfo)

    def audit(self, *, limit: int | None = None, after: int | None = None) -> Iterator[AuditRecord]:
        """Who did what to what."""
        query = [] if after is None else [("after", str(after))]
        return self._items("/audit", AuditPage, query, limit=limit)
