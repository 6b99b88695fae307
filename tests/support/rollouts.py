"""A small fleet with releases to roll out, and what a test asks about its rollouts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace
from sqlalchemy import delete, update
from sqlmodel import col, select

from cloud_hub.ingest.inbox import Message
from cloud_hub.ingest.ingestor import Ingestor
from cloud_hub.rollouts import create_rollout
from cloud_hub.store.tables import (
    ChannelRow,
    Device,
    DeviceModel,
    Model,
    PairEvidence,
    Release,
    RolloutEvent,
    RolloutRow,
)
from fleet.protocol import topics
from fleet.protocol.channel import Audit, Channel, ModelEntry, decode_channel, encode_channel
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import Envelope
from fleet.protocol.resolve import resolve
from fleet.protocol.telemetry import PairCounts, Window
from fleet.rollouts.claims import OUTCOMES
from tests.support.hub import HubFixture

DEVICES = ("d-0", "d-1", "d-2")
GUARD = {"margin": 0.1, "min_pairs": 30}


def make_fleet(hub: HubFixture, releases: int = 3) -> HubFixture:
    """Three devices on release 1 of `digits` on the channel `stable`; more releases are published."""
    hub.model()
    for seed in range(releases):
        hub.release(seed=seed)

    def first(channel: Channel) -> Channel:
        return replace(channel, models={"digits": ModelEntry(release=1, audit=Audit(auditor=1))})

    hub.hub.publisher.change_channel("stable", first, actor="test")
    with hub.hub.session() as session:
        for device_id in DEVICES:
            session.add(
                Device(
                    id=device_id,
                    public_key="-",
                    key_fingerprint=device_id,
                    certificate="-",
                    certificate_serial="-",
                    certificate_expires_at=0.0,
                    channel="stable",
                    enrolled_at=0.0,
                    last_seen_at=hub.clock(),
                )
            )
    return hub


def names_auditor(hub: HubFixture, number: int) -> None:
    """The channel `stable` names an auditor of `digits` as a hub of before wrote it down, whatever the release."""
    with hub.hub.session() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        document = decode_channel(row.document)
        named = replace(document.models["digits"], audit=Audit(auditor=number))
        row.document = encode_channel(replace(document, models={**document.models, "digits": named}))
        session.add(row)


def begin_anew(hub: HubFixture) -> None:
    """Forget every rollout; the channel is on release 1 again, and no release is forbidden."""
    with hub.hub.session() as session:
        connection = session.connection()
        for table in (RolloutRow, RolloutEvent, PairEvidence, DeviceModel):
            connection.execute(delete(table))
        connection.execute(delete(ChannelRow).where(col(ChannelRow.name) != "stable"))
        connection.execute(update(Release).values(status="published"))
        connection.execute(update(Model).values(min_release=1))

    def first(channel: Channel) -> Channel:
        return replace(channel, models={"digits": ModelEntry(release=1, audit=Audit(auditor=1))})

    hub.hub.publisher.change_channel("stable", first, actor="test")


def start(hub: HubFixture, release: int = 2) -> str:
    """A rollout in two stages; its id."""
    row = create_rollout(
        hub.hub, model="digits", release=release, channel="stable", stages=[34, 100], guard=GUARD, actor="test"
    )
    return row.id


def entry(hub: HubFixture) -> ModelEntry:
    """The channel's entry of `digits`."""
    with hub.hub.reading() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        return decode_channel(row.document).models["digits"]


def cohort(hub: HubFixture) -> list[str]:
    """The devices that the channel's rollout holds now."""
    with hub.hub.reading() as session:
        row = session.get(ChannelRow, "stable")
        assert row is not None
        channel = decode_channel(row.document)
    found = {device: resolve(channel, "digits", device, committed=1) for device in DEVICES}
    return [device for device, target in found.items() if target is not None and target.rollout is not None]


def evidence(hub: HubFixture, rollout: str, *, good: bool = True, attempt: int = 1) -> None:
    """The cohort has committed the release, with paired answers that speak for or against it."""
    counts = {"both": 200} if good else {"both": 80, "only_old": 20}
    release = entry(hub).rollout
    for device in cohort(hub):
        with hub.hub.session() as session:
            session.merge(
                DeviceModel(
                    device_id=device,
                    model="digits",
                    state="committed",
                    active=release.release if release is not None else None,
                    rollout=rollout,
                    attempt=attempt,
                    at=hub.clock(),
                )
            )
            session.merge(PairEvidence(rollout=rollout, attempt=attempt, device_id=device, **counts))


def say(fleet: HubFixture, rollout: str, seq: int, device: str, outcomes: Mapping[int, str]) -> None:
    """The hub hears a window of a device, of inputs by their keys."""
    Ingestor(fleet.hub).take([claiming(rollout, seq, device, outcomes)])


def claiming(rollout: str, seq: int, device: str, outcomes: Mapping[int, str]) -> Message:
    """The message of a device's window that says what came of inputs, by their keys."""
    inputs = {name: sorted(key for key, outcome in outcomes.items() if outcome == name) for name in OUTCOMES}
    told = PairCounts(
        rollout=rollout,
        attempt=1,
        old=1,
        new=2,
        **{name: len(keys) for name, keys in inputs.items()},
        keys=b"".join(key.to_bytes(8, "little") for keys in inputs.values() for key in keys),
    )
    window = Window(
        model="digits",
        release=2,
        variant="v",
        auditor=1,
        started_at=1.0,
        ended_at=61.0,
        counters={"requests": 600, "audited": 600},
        pairs=told,
    )
    envelope = Envelope(
        device=device, spool="s1", seq=seq, base=1, at=1.0, kind="window", body=msgspec.Raw(encode_msgpack(window))
    )
    return Message(topics.uplink(device, "telemetry"), encode_msgpack(envelope))


def row_of(hub: HubFixture, rollout: str) -> RolloutRow:
    """The rollout's row."""
    with hub.hub.reading() as session:
        row = session.get(RolloutRow, rollout)
        assert row is not None
        return row


def live(hub: HubFixture) -> list[str]:
    """Ids of the rollouts that have not ended."""
    with hub.hub.reading() as session:
        return list(session.exec(select(RolloutRow.id).where(col(RolloutRow.ended_at).is_(None))))


def history(hub: HubFixture, rollout: str) -> list[str]:
    """The events' names, in order."""
    with hub.hub.reading() as session:
        rows = select(RolloutEvent.event).where(RolloutEvent.rollout == rollout).order_by(col(RolloutEvent.id))
        return list(session.exec(rows))
