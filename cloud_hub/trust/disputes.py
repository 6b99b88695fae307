"""Releases that disagree on the interface of their model, as hubs of 0.1 published them, and the operator's choice.

What is compared is what no later release may add to or leave out: tensors, class names and the kinds of preprocessing
steps. Equal is then equal in
either direction, so that the order in which releases came means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlmodel import Session, col, select

from cloud_hub.errors import ConflictError
from cloud_hub.store.tables import Model, Release
from fleet.protocol.front import Front
from fleet.protocol.interface import Interface, differences
from fleet.protocol.manifest import Tensor
from fleet.protocol.preprocessing import kinds_of
from fleet.protocol.steps import AnyStep


class _Ports(msgspec.Struct, frozen=True):
    """The part of a stored manifest that is read here."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...] = ()
    preprocess: tuple[AnyStep, ...] = ()
    front: Front | None = None


def live_releases(session: Session, owner: Model) -> list[Release]:
    """The published releases of a model at or above its floor, oldest first."""
    live = select(Release).where(
        Release.model == owner.name, Release.status == "published", col(Release.number) >= owner.min_release
    )
    return list(session.exec(live.order_by(col(Release.number))))


def like_chosen(session: Session, owner: Model) -> tuple[int, ...] | None:
    """The live releases that have the interface which the operator has chosen; None where that is none of them."""
    if owner.interface_from is None:
        return None
    live = live_releases(session, owner)
    chosen = next((row for row in live if row.number == owner.interface_from), None)
    if chosen is None:
        return None
    wanted = ports(chosen)
    return tuple(row.number for row in live if not differences(wanted, ports(row)))


def disputed(session: Session, owner: Model) -> tuple[int, ...]:
    """The live releases of which not all have one interface; empty where all have, or the operator has chosen."""
    if like_chosen(session, owner) is not None:
        return ()
    live = live_releases(session, owner)
    alike = not live or all(not differences(ports(live[0]), ports(row)) for row in live[1:])
    return () if alike else tuple(row.number for row in live)


def refuse_disputed(session: Session, owner: Model) -> None:
    """Raise ConflictError while releases of the model disagree: which one applications rely on is not known."""
    numbers = disputed(session, owner)
    if numbers:
        raise ConflictError(
            f"releases {in_words(numbers)} of model {owner.name!r} disagree on its interface, so that nothing can be "
            "published",
            subject=owner.name,
            hint=f"see them: fleet release show {owner.name} N; choose: "
            f"fleet model change {owner.name} --interface-from N",
        )


def differing(session: Session, owner: Model, number: int) -> tuple[int, ...]:
    """Return the live releases whose interface is not that of release `number`.

    Args:
        session: an open one.
        owner: the model.
        number: of one of its live releases.
    """
    live = live_releases(session, owner)
    wanted = next(ports(row) for row in live if row.number == number)
    return tuple(row.number for row in live if differences(wanted, ports(row)))


def among(session: Session, owners: Sequence[Model]) -> dict[str, tuple[int, ...]]:
    """Those of some models whose releases disagree, with their numbers."""
    return {owner.name: numbers for owner in owners if (numbers := disputed(session, owner))}


def ports(row: Release) -> Interface:
    """Tensors, class names and kinds of steps of a release that was checked when it was published."""
    found = msgspec.json.decode(row.manifest, type=_Ports)
    return Interface(
        inputs=found.inputs,
        outputs=found.outputs,
        labels=found.labels,
        preprocess=kinds_of(found.preprocess, found.front.inputs if found.front is not None else ()),
    )


def in_words(numbers: Iterable[int]) -> str:
    """Numbers of releases as a sentence has them: `1, 2 and 4`."""
    *most, last = [str(number) for number in numbers]
    return f"{', '.join(most)} and {last}" if most else last
