"""A device's batch of samples, from bytes: each is read and checked by itself.

One that cannot be taken is set aside with its reason, like every other message, and answered as taken: the device
must not send it, and with it the good ones beside it, again for ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Raw, Struct
from sqlmodel import select

from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.ingest import aside
from cloud_hub.samples import store
from cloud_hub.store.engine import is_outage
from cloud_hub.store.tables import Device, Model
from fleet.protocol.bounds import check_count, check_time, check_word
from fleet.protocol.codec import decode_msgpack, encode_msgpack
from fleet.protocol.errors import MalformedError, ProtocolError, VersionError
from fleet.protocol.messages import VERSION, Sample
from fleet.protocol.names import check_name
from fleet.protocol.task import NO_CLASS
from fleet.protocol.tensors import from_array

LARGEST = (1 << 31) - 1  # of a release or a class: Parquet's columns have 32 bits


class _Batch(Struct, frozen=True, kw_only=True):
    """`messages.SampleBatch`, its samples not read yet."""

    v: int = VERSION
    samples: tuple[Raw, ...]


class _Named(Struct, frozen=True, kw_only=True):
    """All that must be known of a sample to answer it."""

    id: str


class Bad(NamedTuple):
    """A sample that cannot be taken, and why."""

    payload: bytes
    error: Exception


def take(hub: Hub, device_id: str, body: bytes, limit: int) -> tuple[str, ...]:
    """Take a batch; returns the ids that the device need not send again: new, known, or set aside.

    Raises:
        MalformedError, VersionError: it is no batch.
    """
    batch = decode_msgpack(body, _Batch, limit=limit, subject="samples")
    if batch.v != VERSION:
        raise VersionError(f"samples of version {batch.v} are unknown here", subject="samples")
    with hub.reading() as session:
        models = frozenset(session.exec(select(Model.name)))
    good: list[Sample] = []
    bad: list[Bad] = []
    for raw in batch.samples:
        try:
            good.append(check_sample(decode_msgpack(bytes(raw), Sample, limit=limit, subject="sample"), models))
        except ProtocolError as error:
            bad.append(Bad(bytes(raw), error))
    committed, refused = _commit(hub, device_id, good)
    return (*committed, *_set_aside(hub, device_id, [*bad, *refused]))


def check_sample(sample: Sample, models: frozenset[str]) -> Sample:
    """Return a sample that the database and the Parquet files take; MalformedError otherwise."""
    check_word(sample.id, "sample")
    check_name(sample.model, "model")
    if sample.model not in models:
        raise MalformedError(f"sample {sample.id}: no model {sample.model!r}", subject=sample.model)
    check_word(sample.variant, "variant")
    check_time(sample.at, "at")
    check_count(sample.release, "release", LARGEST)
    for name in ("prediction", "cloud_prediction"):
        if getattr(sample, name) not in (None, NO_CLASS):
            check_count(getattr(sample, name), name, LARGEST)
    if not math.isfinite(sample.confidence):
        raise MalformedError(f"sample {sample.id}: a confidence of {sample.confidence}", subject=sample.id)
    if not sample.inputs:
        raise MalformedError(f"sample {sample.id} has no inputs", subject=sample.id)
    for array in (*sample.inputs, *sample.outputs):
        from_array(array)
    return sample


def _commit(hub: Hub, device_id: str, samples: Sequence[Sample]) -> tuple[tuple[str, ...], list[Bad]]:
    """Write samples; one that fails for a reason that nobody foresaw costs no other one."""
    if not samples:
        return (), []
    try:
        return store.commit(hub, device_id, samples), []
    except Exception as error:
        if is_outage(error) or isinstance(error, HubError):
            raise
        if len(samples) == 1:
            return (), [Bad(encode_msgpack(samples[0]), error)]
    each = [_commit(hub, device_id, [sample]) for sample in samples]
    return tuple(name for names, _ in each for name in names), [one for _, bad in each for one in bad]


def _set_aside(hub: Hub, device_id: str, bad: Sequence[Bad]) -> list[str]:
    """Keep what cannot be taken; returns the ids that could be read."""
    names = []
    with hub.session() as session:
        device = session.get(Device, device_id, with_for_update=True) if bad else None
        if device is not None:
            device.set_aside += len(bad)
            session.add(device)
            heads = [aside.Unusable(device_id, "samples", payload[: aside.HEAD], error) for payload, error in bad]
            aside.keep(session, heads, hub.clock())
        for payload, _ in bad:
            try:
                names.append(decode_msgpack(payload, _Named, limit=len(payload)).id)
            except ProtocolError:
                continue  # nothing that a device of ours sends: it has no id by which it could be answered
    return names
