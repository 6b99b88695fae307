"""Bringing the object store up to what the database says was published, after a crash or a torn disk."""

from __future__ import annotations

import logging

from sqlmodel import Session, select

from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.store.tables import Metadata
from cloud_hub.trust import repository
from cloud_hub.trust.rows import all_targets, latest_metadata
from cloud_hub.trust.transaction import METADATA, TARGETS, Transactions

log = logging.getLogger(__name__)


def recover(transactions: Transactions) -> bool:
    """Put what is missing or torn from the rows; True when the published timestamp is the database's.

    Raises:
        ConflictError: a numbered file holds other valid metadata than its row; two databases
            publish into one store.
    """
    with Session(transactions.engine.execution_options(edgeloop_read=True)) as session:
        latest = latest_metadata(session)
        roots = session.exec(select(Metadata).where(Metadata.role == "root")).all()
        numbered = [(row.role, row.version, row.body) for row in roots]
        files = all_targets(session)
    if "timestamp" not in latest:
        return True
    for role, body in latest.items():
        if role not in ("root", "timestamp"):
            numbered.append((role, repository.version_of(body), body))
    _put_targets(transactions, files)
    for role, version, body in numbered:
        _put_metadata(transactions, role, version, body)
    return transactions.push_timestamp(latest["timestamp"])


def _put_targets(transactions: Transactions, files: dict[str, bytes]) -> None:
    sizes = {item.key: item.size for item in transactions.objects.list(TARGETS.rstrip("/"))}
    for path, data in files.items():
        if sizes.get(TARGETS + repository.target_name(path, data)) != len(data):
            transactions.put_target(path, data)


def _put_metadata(transactions: Transactions, role: str, version: int, body: bytes) -> None:
    if transactions.put_numbered(role, version, body):
        return
    name = repository.metadata_name(role, version)
    try:
        repository.read(transactions.objects.get(METADATA + name).data)
    except InvalidError:
        log.warning("%s was torn; writing it again from the database", name)
        transactions.objects.put(METADATA + name, body)
        return
    raise ConflictError(
        f"{name} in the store differs from the database", subject=name, hint="do two databases share one store?"
    )
