"""The retrain job: snapshot, the work (check, teacher, gate, student, compile), publish, audit, roll out.

The work runs users' code, so an executor runs it (`cloud_hub.execution.port`); all that touches the hub is here. What
is done is kept in the job's result, so that a worker that takes over goes on from there: the snapshot, the published
release and the rollout are never made twice; training resumes its checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.execution.port import Executor, Work
from cloud_hub.jobs.folders import work_folder
from cloud_hub.jobs.logs import keep_log
from cloud_hub.jobs.running import Running
from cloud_hub.objects import blob_key, delta_key
from cloud_hub.rollouts import settle
from cloud_hub.rollouts.create import Proposal, look_ahead, start_rollout
from cloud_hub.samples import snapshots
from cloud_hub.store.tables import ChannelRow, Release, RolloutRow
from cloud_hub.training import handing
from cloud_hub.training.gate import MARGIN
from cloud_hub.training.handed import RELEASE
from cloud_hub.training.work import ENTRY
from cloud_hub.trust.checks import cloud_variant
from cloud_hub.trust.manifest_patches import keep_manifest_patches
from cloud_hub.trust.rows import get_model, get_release, interface_release
from fleet.api.jobs import RetrainOptions
from fleet.api.rollouts import RolloutOptions
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.protocol.manifest import Manifest, decode_manifest

PINNED = "a rollout is under way, its auditor is pinned"


def run_retrain(running: Running, executor: Executor) -> dict[str, object]:
    """Run the job; returns what was made: snapshot, release, status, accuracies, rollout.

    Raises ExecutionError when the recipe does not come to its end, and whatever a step refuses with.
    """
    hub, model = running.hub, running.job.model
    options = RetrainOptions.model_validate(running.job.payload)
    if "release" not in running.saved:
        _make_release(running, options, executor)
    number = int(running.saved["release"])
    with hub.reading() as session:
        release = get_release(session, model, number)
    status = release.status
    if status != "published":
        return {**running.saved, "status": status}
    if options.channel:
        running.step("putting it on the channel", 0.95)
        # Only a cloud variant can audit. A worker that takes over finds the rollout that this choice was made for.
        if "auditor" not in running.saved and cloud_variant(decode_manifest(release.manifest)):
            _choose_auditor(running, options.channel, number)
        if options.rollout is not None and "rollout" not in running.saved:
            running.step("starting the rollout", 0.97)
            running.save(rollout=_start_rollout(running, options, number))
    return {**running.saved, "status": status}


def _make_release(running: Running, options: RetrainOptions, executor: Executor) -> None:
    hub, model = running.hub, running.job.model
    with hub.reading() as session:
        recipe, fixed = get_model(session, model).recipe, interface_release(session, model)
    handing.check_encoder(hub, model, fixed)  # before anything is trained
    if "snapshot" not in running.saved:
        running.step("freezing a snapshot", 0.0)
        snapshot = options.snapshot or snapshots.create(hub, model, actor=f"job:{running.job.id}").id
        running.save(snapshot=snapshot)
    current = current_release(hub, model, options.channel)
    work = Work(
        ENTRY,
        work_folder(hub, running.job.id),
        {
            "recipe": recipe,
            "seed": options.seed,
            "model": model,
            "fixed": fixed.number if fixed is not None else None,
            "current": current[0] if current is not None else None,
            "max_bytes": options.max_bytes,
            "hyper": options.hyper.given if options.hyper is not None else {},
        },
        beside={"recipes": hub.config.directory / "recipes"},
    )
    handing.hand_in(hub, model, work.folder, running.saved["snapshot"], fixed, current)
    try:
        running.save(**executor.run(work, progress=running.step, check=running.check))
    finally:
        keep_log(hub, running.job.id, work.folder)
    running.step("publishing", 0.9)
    number = _publish(running, _taken(hub, work.folder / RELEASE, current))
    handing.keep_weights(hub, model, number, work.folder)
    running.save(release=number)  # last: who takes over before does all this again, which changes nothing
    shutil.rmtree(work.folder, ignore_errors=True)  # all that is needed of it is in the store


def _taken(hub: Hub, release: Path, current: tuple[int, Manifest] | None) -> bytes:
    """Put a release directory's blobs into the store, with patches for who has `current`; the manifest's bytes."""
    for blob in (release / "blobs").iterdir():
        hub.objects.put_file(f"blobs/{blob.name}", blob)
    data = (release / "manifest.json").read_bytes()
    if current is not None:
        _put_patches(hub, current[1], decode_manifest(data))
    return data


def _put_patches(hub: Hub, old: Manifest, new: Manifest) -> None:
    """So that devices with the current release need not fetch whole files."""
    from model_compiler.inputs.former_release import pairs
    from model_compiler.package.delta import build

    for before, after in pairs(old, new):
        files = [hub.objects.get(blob_key(blob.sha256)).data for blob in (before, after)]
        patch = build(*files).patch
        if len(patch) < after.size:
            hub.objects.put_new(delta_key(after.sha256, before.sha256), patch)


def _publish(running: Running, manifest: bytes) -> int:
    """Publish under a number that is written down first, so that no second release is made of one job; the number."""
    hub, model, actor = running.hub, running.job.model, f"job:{running.job.id}"
    if "number" not in running.saved:
        running.save(number=hub.publisher.reserve(model, actor=actor))
    number = int(running.saved["number"])
    with hub.reading() as session:
        reserved = get_release(session, model, number).status == "reserved"
    if reserved:
        note = f"retrained on snapshot {running.saved['snapshot'][:12]}"
        hub.publisher.publish_release(model, manifest, actor=actor, note=note, number=number)
        keep_manifest_patches(hub, model, number)
    return number


def current_release(hub: Hub, model: str, channel: str) -> tuple[int, Manifest] | None:
    """The auditor (else the default) of the channel, or the newest published release; None without any."""
    with hub.reading() as session:
        row = session.get(ChannelRow, channel) if channel else None
        entry = decode_channel(row.document).models.get(model) if row is not None else None
        if entry is not None:
            release = get_release(session, model, entry.audit.auditor or entry.release)
        else:
            query = select(Release).where(Release.model == model, Release.status == "published")
            newest = session.exec(query.order_by(col(Release.number).desc()).limit(1)).first()
            if newest is None:
                return None
            release = newest
    return release.number, decode_manifest(release.manifest)


def _choose_auditor(running: Running, channel: str, number: int) -> None:
    """The new release audits if the gate has shown that it may, or if there was none before it; else an earlier one.

    Nothing is published where this changes nothing. A live rollout keeps the auditor by which it is judged.
    """
    saved, hub, model = running.saved, running.hub, running.job.model
    # A job that an earlier version began does not say whether its model was shown to be good enough.
    shown = bool(saved.get("gate_shown", "gate_release" not in saved))
    judge = number if shown else _judge(hub, model, saved["gate_release"])

    def change(document: Channel) -> Channel:
        entry = document.models.get(model, ModelEntry(release=number))
        if entry.rollout is not None or (not shown and entry.audit.auditor is not None):
            return document
        entry = msgspec.structs.replace(entry, audit=msgspec.structs.replace(entry.audit, auditor=judge))
        return msgspec.structs.replace(document, models={**document.models, model: entry})

    with hub.reading() as session:
        row = session.get(ChannelRow, channel)
        document = decode_channel(row.document) if row is not None else None
    if document is None or change(document) != document:
        document = hub.publisher.change_channel(channel, change, actor=f"job:{running.job.id}", create=False)
    entry = document.models[model]
    running.save(auditor=entry.audit.auditor)
    if entry.audit.auditor != number:
        running.save(auditor_why=PINNED if entry.rollout is not None else _unproven(saved, channel, number))


def _judge(hub: Hub, model: str, before: int) -> int | None:
    """The release before, where it can audit."""
    with hub.reading() as session:
        return before if cloud_variant(decode_manifest(get_release(session, model, before).manifest)) else None


def _unproven(saved: Mapping[str, Any], channel: str, number: int) -> str:
    return (
        f"{saved['gate_labels']} held-out labels do not show that the new model is less than {100 * MARGIN:g} points "
        f"worse than release {saved['gate_release']}, so it does not audit; label more samples, or decide it by hand: "
        f"fleet channel set {channel} --auditor {number}"
    )


def _start_rollout(running: Running, options: RetrainOptions, number: int) -> str:
    """Start the rollout, or find the one that this job started before its worker died; its id, empty when it could
    never finish."""
    actor = f"job:{running.job.id}"
    with running.hub.reading() as session:
        made = session.exec(select(RolloutRow).where(RolloutRow.created_by == actor)).first()
    if made is not None:
        return made.id
    wanted = options.rollout or RolloutOptions()
    settle(running.hub, options.channel, actor=actor)
    proposed = Proposal(model=running.job.model, release=number, channel=options.channel, **wanted.model_dump())
    ahead = look_ahead(running.hub, proposed)
    if ahead.forecast.endless:  # the release stays, and an operator may add what it lacks
        running.save(rollout_why=f"it could never finish: {ahead.forecast.endless}; {ahead.forecast.add}")
        return ""
    return start_rollout(running.hub, ahead, actor=actor).id
