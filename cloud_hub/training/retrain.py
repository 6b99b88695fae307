"""The retrain job: check, snapshot, teacher, gate, student, compile, publish, audit, roll out.

What is done is kept in the job's result, so that a worker that takes over goes on from there: the
snapshot, the published release and the rollout are never made twice; training resumes its checkpoints.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import InvalidError
from cloud_hub.jobs.running import Running
from cloud_hub.rollouts.create import create_rollout
from cloud_hub.samples import snapshots
from cloud_hub.store.tables import ChannelRow, Release, RolloutRow
from cloud_hub.training.compiling import compile_run, contract_of
from cloud_hub.training.gate import compare
from cloud_hub.training.recipe import Examples, load_recipe
from cloud_hub.training.run import RunRequest, deal_run, settle_run, train_student, train_teacher
from cloud_hub.trust.rows import get_model, get_release, interface_release
from fleet.api.jobs import RetrainOptions
from fleet.api.rollouts import RolloutOptions
from fleet.protocol.channel import Channel, ModelEntry, decode_channel
from fleet.protocol.manifest import Manifest, decode_manifest
from model_compiler.data import Array

if TYPE_CHECKING:
    from torch import nn


class GateRefusedError(InvalidError):
    """The new teacher is worse than the current one on human labels, by more than chance."""


def retrain(running: Running) -> dict[str, object]:
    """Run the job; returns what was made: snapshot, release, status, accuracies, rollout.

    Raises GateRefusedError, and whatever a step refuses with.
    """
    hub, model = running.hub, running.job.model
    options = RetrainOptions.model_validate(running.job.payload)
    if "release" not in running.saved:
        _make_release(running, options)
    number = int(running.saved["release"])
    with hub.reading() as session:
        status = get_release(session, model, number).status
    if status != "published":
        return {**running.saved, "status": status}
    if options.channel:
        running.step("putting it on the channel", 0.95)
        _set_auditor(running, options.channel, number)
        if options.rollout is not None and "rollout" not in running.saved:
            running.step("starting the rollout", 0.97)
            running.save(rollout=_start_rollout(running, options, number))
    return {**running.saved, "status": status}


def _make_release(running: Running, options: RetrainOptions) -> None:
    hub, model = running.hub, running.job.model
    running.step("checking the recipe against the model's interface", 0.0)
    with hub.reading() as session:
        recipe, fixed = get_model(session, model).recipe, interface_release(session, model)
    request = RunRequest(
        loaded=load_recipe(recipe, folder=hub.config.directory / "recipes"),
        out=hub.config.directory / "work" / running.job.id,
        seed=options.seed,
        contract=contract_of(hub, model, fixed),
        progress=lambda step, share: running.step(step, 0.05 + 0.2 * share + (0.2 if "student" in step else 0.0)),
    )
    settled = settle_run(request)
    if "snapshot" not in running.saved:
        running.step("freezing a snapshot", 0.0)
        snapshot = options.snapshot or snapshots.create(hub, model, actor=f"job:{running.job.id}").id
        running.save(snapshot=snapshot)
    request = replace(request, snapshot=snapshots.load(hub, running.saved["snapshot"]))
    parts = deal_run(request, settled)
    teacher = train_teacher(request, parts)
    running.step("gating the teacher", 0.25)
    current = current_release(hub, model, options.channel)
    running.save(**gate_teacher(hub, current, teacher, parts.gate))
    student = train_student(request, parts, teacher)
    compiled = compile_run(
        hub, request, parts, teacher=teacher, student=student, labels=settled.labels, current=current,
        progress=lambda step: running.step(step, 0.6),
    )  # fmt: skip
    running.step("publishing", 0.9)
    _publish(running, compiled)


def _publish(running: Running, manifest: bytes) -> None:
    """Publish under a number that is written down first, so that no second release is made of one job."""
    hub, model, actor = running.hub, running.job.model, f"job:{running.job.id}"
    if "number" not in running.saved:
        running.save(number=hub.publisher.reserve(model, actor=actor))
    number = int(running.saved["number"])
    with hub.reading() as session:
        reserved = get_release(session, model, number).status == "reserved"
    if reserved:
        note = f"retrained on snapshot {running.saved['snapshot'][:12]}"
        hub.publisher.publish_release(model, manifest, actor=actor, note=note, number=number)
    running.save(release=number)


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


def gate_teacher(hub: Hub, current: tuple[int, Manifest] | None, teacher: nn.Module, gate: Examples) -> dict[str, Any]:
    """Compare the new teacher with the current release's on held-out human labels (`gate.compare`).

    Raises GateRefusedError when the new one is worse by more than chance, InvalidError when no human
    label is held out.
    """
    from cloud_hub.inference.sessions import load_cloud
    from cloud_hub.training.fitting import logits

    if not len(gate):
        raise InvalidError(
            "no human label is left for the gate", subject="snapshot", hint="label at least 4 samples of the snapshot"
        )
    right = logits(teacher, gate.inputs).argmax(axis=1) == gate.y
    if current is None or not current[1].placed("cloud"):
        return {"gate_new": float(right.mean()), "gate_labels": len(gate)}
    number, manifest = current
    outputs = load_cloud(hub, manifest).run(_asked(gate, number, manifest))
    found = compare(next(iter(outputs.values())).argmax(axis=1) == gate.y, right)
    if found.refused:
        raise GateRefusedError(
            f"the new teacher gets {found.new:.3f} of {len(gate)} held-out labels right, release {number} gets "
            f"{found.old:.3f}: {found.lost} lost, {found.won} won, which chance does with probability "
            f"{found.chance:.3f} only",
            subject="teacher",
            hint="label more samples, or change the recipe",
        )
    return {"gate_new": found.new, "gate_old": found.old, "gate_labels": len(gate), "gate_release": number}


def _asked(gate: Examples, number: int, manifest: Manifest) -> dict[str, Array]:
    """The inputs as release `number` calls them: on a hub of 0.1 an auditor may have another name for a lone one.

    Raises InvalidError when it takes other inputs.
    """
    theirs, arrays = [tensor.name for tensor in manifest.inputs], dict(gate.inputs)
    if len(theirs) == len(arrays) == 1:
        arrays = dict(zip(theirs, arrays.values(), strict=True))
    if set(theirs) != set(arrays):
        raise InvalidError(
            f"release {number}, which the new teacher is compared with, takes {', '.join(theirs)}; "
            f"the model's inputs are {', '.join(arrays)}",
            subject="teacher",
            hint="make a release with the model's interface the channel's auditor",
        )
    return arrays


def _set_auditor(running: Running, channel: str, number: int) -> None:
    model = running.job.model

    def change(document: Channel) -> Channel:
        entry = document.models.get(model) or ModelEntry(release=number)
        audit = msgspec.structs.replace(entry.audit, auditor=number)
        models = {**document.models, model: msgspec.structs.replace(entry, audit=audit)}
        return msgspec.structs.replace(document, models=models)

    running.hub.publisher.change_channel(channel, change, actor=f"job:{running.job.id}", create=False)


def _start_rollout(running: Running, options: RetrainOptions, number: int) -> str:
    """Start the rollout, or find the one that this job started before its worker died."""
    actor = f"job:{running.job.id}"
    with running.hub.reading() as session:
        made = session.exec(select(RolloutRow).where(RolloutRow.created_by == actor)).first()
    if made is not None:
        return made.id
    wanted = options.rollout or RolloutOptions()
    return create_rollout(
        running.hub,
        model=running.job.model,
        release=number,
        channel=options.channel,
        actor=actor,
        **wanted.model_dump(),
    ).id


KINDS = {"retrain": retrain}  # of jobs, for the worker
