"""Keeps of a deleted model or channel where its numbers go on, should there be one of its name again.

Devices and mirrors have seen signed files under the old numbers. A number that had a body never gets another one, and a
channel's version never falls, or devices would refuse it.
"""

from __future__ import annotations

from sqlmodel import Session

from cloud_hub.store.tables import ChannelRow, Model, Setting
from cloud_hub.trust.transaction import Draft


def remember_channel(session: Session, row: ChannelRow) -> None:
    """Keep the last version of a channel that is being deleted."""
    session.merge(Setting(key=_channel(row.name), value=str(row.version)))


def remember_model(session: Session, row: Model) -> None:
    """Keep the next number of a model that is being deleted."""
    session.merge(Setting(key=_model(row.name), value=str(row.next_release)))


def version(draft: Draft, channel: str) -> int:
    """The last version that a channel of this name had; 0 where there was none."""
    return _kept(draft.session, _channel(channel), 0)


def first_release(session: Session, model: str) -> int:
    """The number of the first release of a new model; below it lie those of a deleted one, for ever forbidden."""
    return _kept(session, _model(model), 1)


def raise_first_release(session: Session, model: str, number: int) -> bool:
    """Let the first release of a model that is not there have this number at least; False where it had.

    Args:
        session: an open one; the caller commits.
        model: the name of one that is not there.
        number: the lowest that its next first release may have.
    """
    if first_release(session, model) >= number:
        return False
    session.merge(Setting(key=_model(model), value=str(number)))
    session.flush()
    return True


def _kept(session: Session, key: str, default: int) -> int:
    row = session.get(Setting, key)
    return default if row is None else int(row.value)


def _channel(name: str) -> str:
    return f"gone:channel:{name}"


def _model(name: str) -> str:
    return f"gone:model:{name}"
