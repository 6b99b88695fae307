"""`cloud-hub restore`: a backup becomes a hub again, or nothing is changed.

1. Every file of the backup is read and compared; the database in it must be whole and of a known version.
2. The target must be free: no hub runs, and none is in directory, database or store unless it may be replaced.
3. Database and keys are made ready beside, and the keys must be those that the database's signed root names.
4. Objects are put, and the journals put together. Then `hub.toml` goes aside, so that nothing starts between; the
   database, then the keys get their place.
5. What was forbidden since is carried out, and only then is anything published. `hub.toml` comes last.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from cloud_hub.backup import checking, database, journals, placing, sealed
from cloud_hub.backup.manifest import CONFIG, DATABASE, JOURNAL, SEALED, Manifest
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, ForbiddenError, NotFoundError, UnreachableError
from cloud_hub.events import outbox
from cloud_hub.journal import Journal, position
from cloud_hub.objects import open_objects
from cloud_hub.opening.bootstrap import offline_keys_inside, open_hub
from cloud_hub.opening.cleanup import all_or_nothing
from cloud_hub.opening.lock import hub_lock
from cloud_hub.opening.replaying import Replayed, replay
from cloud_hub.rollouts.engine import read_or_name, store
from cloud_hub.store.tables import AsyncRequest, AuditEntry, Device, OutboxCommand, RolloutRow, Token
from cloud_hub.trust import keys as key_files
from fleet.rollouts import machine
from fleet.rollouts.errors import TransitionError

Progress = Callable[[str], None]
NAMED = 20  # tokens that are named one by one
ASIDE = ("keys.replaced-*", f"{CONFIG}.before")  # what was there before, which nobody can make again


class Restored(NamedTuple):
    """The manifest of the restored backup, how many entries of the journal were carried out, and problems that an
    operator should know or solve."""

    manifest: Manifest
    entries: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """The source of a restored hub: a backup's `folder`, and copies that are newer or not in it.

    `keys` are a copy of the hub's keys; None takes those in the backup, else those in the hub's directory. `journal` is
    a copy that is newer than the backup; see `journals`. `passphrase` gives the one that the backup's keys are sealed
    with; it is asked only when they are needed.
    """

    folder: Path
    passphrase: Callable[[], bytes]
    keys: Path | None = None
    journal: str | None = None


def restore(
    source: Source,
    directory: Path,
    *,
    chosen: Mapping[str, str],
    replace: bool,
    now: float,
    say: Progress = lambda text: None,
) -> Restored:
    """Make the hub of a backup again in `directory`; start it with `cloud-hub serve`.

    Args:
        source: the backup, and copies that are newer or not in it.
        directory: where the hub is to lie; it, its database and its store are empty unless `replace` is set.
        chosen: `database` and `objects` where they are to be others than before.
        replace: what is there may be lost.
        now: Unix seconds, for the record.
        say: hears what it does, in words.

    Raises:
        InvalidError: the backup is damaged, of a newer version, or the keys are not this hub's.
        ConflictError: a hub is there or runs. ForbiddenError: a wrong passphrase. NotFoundError: no keys or journal.
        UnreachableError: database or object store does not answer.
    """
    say("checking the backup")
    folder = source.folder
    found = checking.check_backup(folder)
    given = journals.read_copy(source.journal) if source.journal is not None else ()
    if not replace and any((directory / name).exists() for name in (CONFIG, "keys", "hub.db")):
        hint = "give an empty directory, or say --replace to lose what it holds now"
        raise ConflictError(f"{directory} holds a hub already", subject=str(directory), hint=hint)
    with all_or_nothing(directory, keep=ASIDE), hub_lock(directory, "restore"), placing.staging(directory) as stage:
        config, text = checking.configuration(folder, directory, chosen)
        database.check_unused(config.database_url, replace=replace)
        objects = open_objects(config.objects_url)
        checking.check_store(config, objects, found, replace=replace)
        _stage_database(folder, stage, found, now)
        _stage_keys(source, stage, config, found)
        copies = _journals(folder, directory, config, given, stage)
        checking.check_keys(stage / "keys", config, stage / DATABASE, objects)
        say(f"putting {len(found.objects)} objects")
        for key, content in found.objects.items():
            placing.put(objects, key, content, folder)
        parted = _adopt(config, copies, now)
        say("putting the database")
        with placing.closed(directory):
            placing.place_database(stage / DATABASE, config)
        placing.place_keys(stage / "keys", config)
        config.directory.chmod(0o750)
        say("signing what is published")
        done = _catch_up(config, whole=parted)
        key_files.write_private(directory / CONFIG, text.encode(), replace=True)
        (directory / f"{CONFIG}.before").unlink(missing_ok=True)
    return Restored(found, *done)


def _journals(
    folder: Path, directory: Path, config: HubConfig, given: tuple[bytes, ...], stage: Path
) -> list[tuple[bytes, ...]]:
    """The copies to put together: the backup's, the given one, and where the hub moves, the one that it leaves."""
    known = journals.read_own(str(folder / JOURNAL))
    with database.opened(stage / DATABASE) as session:
        at = position(session).number
    if given:
        journals.refuse_older(given, known, at)
    copies = [known, given]
    left = checking.configuration(folder, directory, {})[0].journal_url
    if left != config.journal_url:
        try:
            copies.append(journals.read_own(left))
        except UnreachableError as error:
            if not given:
                hint = f"give its newest copy by --journal; where there is none, the backup's own: {folder / JOURNAL}"
                raise UnreachableError(f"the journal in {left}: {error}", subject="journal", hint=hint) from error
    return copies


def _adopt(config: HubConfig, copies: list[tuple[bytes, ...]], now: float) -> bool:
    """Put them together in the restored hub's journal; returns whether any had parted from the others."""
    own = Journal(open_objects(config.journal_url), lambda: now)
    return any([own.adopt(lines).parted for lines in copies])


def _catch_up(config: HubConfig, *, whole: bool) -> Replayed:
    """Carry out what was forbidden since the backup, and publish once it is."""
    hub = open_hub(config)
    try:
        with hub.publisher.withheld():
            hub.publisher.recover()
            done = replay(hub, whole=whole)
        hub.publisher.rise()
        unused = _unused_claims(hub)
    finally:
        hub.engine.dispose()
    problems = [*done.problems, *unused]
    if whole:
        problems.append(
            "journals had parted (a restore without the newest one?); what any of them forbids is forbidden"
        )
    return Replayed(done.entries, tuple(problems))


def _unused_claims(hub: Hub) -> list[str]:
    """Names claim tokens that admit a device once more if they were used after the backup: no journal holds a use."""
    with hub.reading() as session:
        query = select(Token.id).where(
            Token.kind == "claim",
            Token.device_id == "",
            col(Token.revoked_at).is_(None),
            sa.or_(col(Token.expires_at).is_(None), col(Token.expires_at) > hub.clock()),
        )
        found = session.exec(query.order_by(Token.id)).all()
    if not found:
        return []
    some = ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
    return [
        f"claim tokens that may have been used since the backup stand again: {some}; end them: fleet token revoke ID"
    ]


def _stage_database(folder: Path, stage: Path, found: Manifest, now: float) -> None:
    """A copy of the backup's database at the newest migration, with what must not simply go on ended in it."""

    def change(session: Session) -> None:
        session.execute(sa.update(Device).values(online=False))
        # Commands that waited may have been sent since; requests that waited have no body any more.
        session.execute(sa.update(OutboxCommand).where(col(OutboxCommand.sent_at).is_(None)).values(sent_at=now))
        session.execute(sa.delete(AsyncRequest))
        outbox.let_go(session, now)
        for row in session.exec(select(RolloutRow).where(col(RolloutRow.state).not_in(machine.ENDED))):
            _pause(session, row, now)
        detail = {"made_at": found.made_at, "version": found.version}
        session.add(AuditEntry(at=now, actor="restore", action="hub.restore", subject="hub", detail=detail))

    shutil.copyfile(folder / DATABASE, stage / DATABASE)
    (stage / DATABASE).chmod(0o600)
    database.bring_up(stage / DATABASE, change)


def _pause(session: Session, row: RolloutRow, now: float) -> None:
    """Its evidence is of another day, and nobody knows what became of it: it does not grow before somebody looks."""
    plan, progress = read_or_name(row)
    why = "the hub was restored from a backup: look at the fleet, then resume or abort it"
    with contextlib.suppress(TransitionError):  # it is paused already
        store(session, row, machine.apply(plan, progress, "pause", now, reason=why), now)


def _stage_keys(
    source: Source,
    stage: Path,
    config: HubConfig,
    found: Manifest,
) -> None:
    """Put the keys beside and see that they are those of the hub; nothing when the directory's own stay."""
    if source.keys is not None:
        files = _read_folder(source.keys)
    elif found.has_keys:
        files = sealed.unseal((source.folder / SEALED).read_bytes(), source.passphrase())
    elif config.keys_dir.is_dir():
        files = {}
    else:
        hint = "give a copy of the hub's DIR/keys: --keys DIR"
        raise NotFoundError("this backup holds no keys", subject="keys", hint=hint)
    (stage / "keys").mkdir(mode=0o700)
    for name, data in files.items():
        key_files.write_private(stage / "keys" / name, data)
    if (inside := offline_keys_inside(stage)) is not None:
        hint = "give the hub's own DIR/keys alone"
        raise ForbiddenError(f"{inside.name} is an offline key", subject=inside.name, hint=hint)


def _read_folder(keys: Path) -> dict[str, bytes]:
    try:
        return sealed.read_keys(keys)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"no keys in {keys}", subject=str(keys), hint="give a copy of the hub's DIR/keys") from None
