"""Drift, samples, snapshots, jobs, and the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlencode

from pydantic import JsonValue, ValidationError

from fleet.api.audit import AuditFilter, AuditPage, AuditRecord
from fleet.api.drift import (
    AlarmInfo,
    AlarmPage,
    MonitorInfo,
    MonitorPage,
    Rebaseline,
    Rebaselined,
    StreamInfo,
    StreamPage,
)
from fleet.api.jobs import JobInfo, JobLog, JobPage, RetrainOptions, TuneOptions
from fleet.api.labelling import BoxUnit, LabelTasks, WantedTasks
from fleet.api.runs import RunInfo, RunPage
from fleet.api.samples import (
    MAX_LABELS,
    DeletedSample,
    Labels,
    NewSnapshot,
    RankedSamples,
    SampleDetail,
    SampleInfo,
    SampleLabel,
    SamplePage,
    SnapshotInfo,
    SnapshotPage,
    WrittenLabels,
)
from fleet.client.calls import UPLOAD_TIMEOUT_S, Calls, check_answer, path_of
from fleet.errors import FleetError, UsageError

ALL = AuditFilter()
LABELS_BYTES = 512 << 10  # of one request; hubs take 1 MiB


class SampleCalls(Calls):
    """Calls about what devices saw, and what is made of it."""

    def drift(self, *, model: str = "") -> list[MonitorInfo]:
        """The drift monitor of every release that is watched, or of those of `model`, defaults first."""
        return list(self._items("/drift", MonitorPage, [("model", model)] if model else []))

    def drift_streams(
        self, model: str, *, release: int | None = None, kind: str = "", limit: int = 100
    ) -> list[StreamInfo]:
        """List the streams that watch a model's inputs, most evidence first.

        Args:
            model: the model's name.
            release: only this one's; None for every release that is watched.
            kind: `device`, `group` or `fleet`; empty for any.
            limit: at most so many.
        """
        query = [("kind", kind)] if kind else []
        query += [("release", str(release))] if release is not None else []
        return list(self._items(path_of("drift", model, "streams"), StreamPage, [*query, ("limit", str(limit))]))

    def rebaseline(self, model: str, devices: list[str] | None = None, *, release: int | None = None) -> Rebaselined:
        """Begin baselines of a model anew.

        Args:
            model: the model's name.
            devices: only these; None for all.
            release: only this one's; None for every release that is watched.
        """
        body = Rebaseline(devices=devices, release=release)
        return self._post(path_of("drift", model, "rebaseline"), body, Rebaselined)

    def alarms(self) -> list[AlarmInfo]:
        """Drift alarms, newest first."""
        return list(self._items("/alarms", AlarmPage))

    def close_alarm(self, alarm: int, *, usual: bool = False) -> AlarmInfo:
        """Close an alarm; with `usual`, what came while it was open may teach what its hours of the week are like."""
        path = path_of("alarms", alarm, "close")
        return self._post(f"{path}?usual=true" if usual else path, None, AlarmInfo)

    def samples(
        self,
        *,
        model: str = "",
        device: str = "",
        reason: str = "",
        labelled: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[SampleInfo]:
        """Samples in the order of their ids.

        Args:
            model: only of this model.
            device: only those from this device.
            reason: only those recorded for this reason.
            labelled: only those with (without) a label.
            limit: at most this many.
        """
        query = [(key, value) for key, value in (("model", model), ("device", device), ("reason", reason)) if value]
        if labelled is not None:
            query.append(("labelled", "true" if labelled else "false"))
        return self._items("/samples", SamplePage, query, limit=limit)

    def sample(self, sample: str) -> SampleDetail:
        """One sample with its arrays."""
        return self._get(path_of("samples", sample), SampleDetail)

    def label_samples(self, labels: Mapping[str, JsonValue], *, by: str) -> WrittenLabels:
        """Write down what is true of samples; each request of at most `LABELS_BYTES` is taken whole or not at all.

        Args:
            labels: by the sample's id, as `SampleLabel` has them, such as a class by its number or name.
            by: the person or tool that says so.

        Raises:
            UsageError: a label that no task can know, such as null, NaN, or numbers without end.
            FleetError: what the hub refuses; the message says how many labels of earlier requests it took.
        """
        written = 0
        for part in _parts([_sample_label(sample, label) for sample, label in labels.items()]):
            try:
                written += self._post("/samples/labels", Labels(labels=part, by=by), WrittenLabels).labelled
            except FleetError as error:
                if written:
                    error.args = (f"{error} ({written} labels before these were written down)",)
                raise
        return WrittenLabels(labelled=written, by=by)

    def delete_sample(self, sample: str) -> DeletedSample:
        """Delete one sample for good."""
        return self._delete(path_of("samples", sample), DeletedSample)

    def export_samples(self, model: str, *, device: str = "") -> bytes:
        """Every sample of `model`, or those from one device, as a Parquet file."""
        query = {"model": model} | ({"device": device} if device else {})
        answer = self._send("GET", f"/samples/export?{urlencode(query)}", timeout=UPLOAD_TIMEOUT_S)
        check_answer(answer, f"samples of {model}")
        return answer.body

    def ranked_samples(self, model: str, *, count: int, since_alarm: bool = False) -> RankedSamples:
        """Return the samples that are worth a label most, the best first.

        Args:
            model: the model's name.
            count: at most so many.
            since_alarm: only samples from after the newest alarm's shift.
        """
        query = urlencode({"model": model, "count": count, "since_alarm": str(since_alarm).lower()})
        path = f"/samples/ranked?{query}"
        return self._read(self._send("GET", path, timeout=UPLOAD_TIMEOUT_S), path, RankedSamples)

    def label_tasks(
        self, model: str, samples: Sequence[str], *, boxes: BoxUnit = "", words: bool = False
    ) -> LabelTasks:
        """Return samples as tasks for people who label; at most `MOST_TASKS`.

        Args:
            model: the samples' model.
            samples: their ids.
            boxes: the unit of boxes that an earlier answer named.
            words: whether only the inputs as text are wanted.
        """
        body = WantedTasks(model=model, ids=list(samples), boxes=boxes, words=words)
        return self._post("/samples/tasks", body, LabelTasks, timeout=UPLOAD_TIMEOUT_S)

    def picture(self, sample: str) -> bytes:
        """A sample's first image as a small PNG; NotFoundError where no input is one."""
        answer = self._send("GET", path_of("samples", sample, "picture"))
        check_answer(answer, f"sample {sample}")
        return answer.body

    def create_snapshot(self, model: str) -> SnapshotInfo:
        """Freeze a model's samples and labels into a dataset."""
        return self._post("/snapshots", NewSnapshot(model=model), SnapshotInfo, timeout=UPLOAD_TIMEOUT_S)

    def snapshots(self) -> list[SnapshotInfo]:
        """Every snapshot."""
        return list(self._items("/snapshots", SnapshotPage))

    def delete_snapshot(self, snapshot: str) -> SnapshotInfo:
        """Delete a snapshot that no release and no job names."""
        return self._delete(path_of("snapshots", snapshot), SnapshotInfo)

    def retrain(self, model: str, options: RetrainOptions) -> JobInfo:
        """Start a retrain job."""
        return self._post(path_of("models", model, "retrain"), options, JobInfo)

    def tune(self, model: str, options: TuneOptions) -> JobInfo:
        """Start a search over the hyper-parameters of a model's recipe."""
        return self._post(path_of("models", model, "tune"), options, JobInfo)

    def jobs(self, *, limit: int | None = None, since: float = 0.0) -> list[JobInfo]:
        """Jobs, newest first: at most `limit`, queued at `since` (Unix seconds) or later."""
        query = [("since", repr(since))] * bool(since)
        return list(self._items("/jobs", JobPage, query, limit=limit))

    def job(self, job: str) -> JobInfo:
        """One job."""
        return self._get(path_of("jobs", job), JobInfo)

    def runs(self, model: str, *, limit: int | None = None) -> Iterator[RunInfo]:
        """A model's training runs, those of the newest jobs first, at most `limit`."""
        return self._items(path_of("models", model, "runs"), RunPage, limit=limit)

    def job_log(self, job: str) -> JobLog:
        """Read the text that a job's code has printed."""
        return self._get(path_of("jobs", job, "log"), JobLog)

    def cancel_job(self, job: str) -> JobInfo:
        """Ask a job to stop."""
        return self._post(path_of("jobs", job, "cancel"), None, JobInfo)

    def audit(
        self, wanted: AuditFilter = ALL, *, limit: int | None = None, after: int | None = None, newest: bool = False
    ) -> Iterator[AuditRecord]:
        """Read the audit log: each record's actor, act and subject.

        Args:
            wanted: the records to read, by actor, act, subject and time; all by default.
            limit: at most so many; None is no bound.
            after: begin after the record of this number.
            newest: read the newest first, instead of in order.
        """
        query = [] if after is None else [("after", str(after))]
        query += [("newest", "true")] * newest
        query += [(key, str(value)) for key, value in wanted.model_dump(exclude_defaults=True).items()]
        return self._items("/audit", AuditPage, query, limit=limit)


def _sample_label(sample: str, label: JsonValue) -> SampleLabel:
    try:
        return SampleLabel(id=sample, label=label)
    except ValidationError as error:
        why = str(error.errors(include_url=False, include_input=False)[0]["msg"]).removeprefix("Value error, ")
        raise UsageError(f"the label of sample {sample[:64]!r} cannot be sent: {why}", subject=sample[:64]) from None


def _parts(labels: Iterable[SampleLabel]) -> Iterator[list[SampleLabel]]:
    """The labels in requests of at most `LABELS_BYTES` and `MAX_LABELS`."""
    part: list[SampleLabel] = []
    size = 0
    for label in labels:
        length = len(label.model_dump_json().encode()) + 1
        if part and (size + length > LABELS_BYTES or len(part) == MAX_LABELS):
            yield part
            part, size = [], 0
        part.append(label)
        size += length
    if part:
        yield part
