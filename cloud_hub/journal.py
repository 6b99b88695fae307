"""A record beside the database of everything forbidden: revocations, withdrawals, floors, used numbers, ended rollouts.

A database that is restored to an older day does not know what was forbidden since, and would revive it. The journal
lies elsewhere (`journal` of hub.toml) and is only ever appended to. One entry is one object, created and never changed:

    journal/000000000007.json    {"number": 7, "previous": <SHA-256 of entry 6's bytes>, "at": …, "act": {…}}

An entry is durable *before* the commit of what it says. The commit keeps its number with the act (the setting
`journal`), so whoever opens the database sees which entries it lacks, by whatever way it became old, and carries them
out (`replay`). A crash between the two leaves an entry whose act never happened: it happens at the next start, as after
a request whose answer was lost. Acts only forbid, and carrying one out twice changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from sqlalchemy import event
from sqlmodel import Session

from cloud_hub.acts import Act, Entry, Position
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.ports import Clock, Objects
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Setting

POSITION = "journal"  # the setting: number and hash of the last entry that the database has carried out
PREFIX = "journal"
FIRST = "0" * 64  # the hash before the first entry
LIMIT = 1 << 20  # bytes of one entry
_NAME = re.compile(r"journal/([0-9]{12})\.json")
_JOURNAL, _ACTS = "edgeloop_journal", "edgeloop_acts"  # of a session's `info`


class Read(NamedTuple):
    """Entries in their order, the position of the last, and what is wrong with them, in words."""

    entries: tuple[Entry, ...]
    tail: Position
    problems: tuple[str, ...]


class Adopted(NamedTuple):
    """The number of entries that a journal took from a copy, and whether the two had parted."""

    entries: int
    parted: bool


class Journal:
    """The journal of one hub, whatever process writes it."""

    def __init__(self, objects: Objects, clock: Clock) -> None:
        self._objects, self._clock = objects, clock
        self._tail = Position(0, FIRST)  # the last one that was seen here

    def attach(self, session: Session) -> Session:
        """Let `write_act` of this session write here; returns it."""
        session.info[_JOURNAL] = self
        return session

    def append(self, act: Act, after: Position) -> tuple[Position, bool]:
        """Write an entry durably, behind whatever others have written.

        Returns its position, and whether it directly follows `after`.

        Raises UnreachableError when it cannot be kept.
        """
        tail = max(after, self._tail, key=lambda at: at.number)  # nobody reads again what stands between
        while True:
            number = tail.number + 1
            data = msgspec.json.encode(Entry(number=number, previous=tail.digest, at=self._clock(), act=act))
            if self._objects.put_new(_key(number), data):
                break
            found = self._objects.get(_key(number)).data
            if not _whole(found) and not self._objects.exists(_key(number + 1)):
                self._objects.put(_key(number), data)  # torn by a power cut, so nobody has committed on it
                break
            tail = Position(number, _digest(found))
        self._tail = Position(number, _digest(data))
        return self._tail, tail == after

    def read(self, after: Position) -> Read:
        """The entries behind a position. What cannot be read is a problem, and the ones behind it are read all the
        same: each of them forbids something."""
        entries: list[Entry] = []
        problems: list[str] = []
        last, digest = after
        if last and not self._has(after):
            hint = "put its copy back, or what was forbidden before is not kept anywhere but in the database"
            problems.append(f"entry {last} of the journal, which the database knows, is missing or changed; {hint}")
        for number, data in self.stored(after.number):
            if number != last + 1:
                problems.append(f"entries {last + 1} to {number - 1} of the journal are missing")
            last, before, digest = number, digest, _digest(data)
            try:
                entry = msgspec.json.decode(data[:LIMIT], type=Entry)
            except msgspec.DecodeError as error:
                problems.append(f"entry {number} of the journal cannot be read: {error}")
                continue
            if entry.number != number or entry.previous != before:
                problems.append(f"entry {number} of the journal does not follow the one before it")
            entries.append(entry)
        return Read(tuple(entries), Position(last, digest), tuple(problems))

    def _has(self, at: Position) -> bool:
        try:
            return _digest(self._objects.get(_key(at.number)).data) == at.digest
        except NotFoundError:
            return False

    def stored(self, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of every entry above `after`, in order."""
        named = ((_NAME.fullmatch(found.key), found.key) for found in self._objects.list(PREFIX))
        numbers = {int(match[1]): key for match, key in named if match}
        for number in sorted(number for number in numbers if number > after):
            yield number, self._objects.get(numbers[number]).data

    def copied(self) -> Iterator[bytes]:
        """The whole journal, a line for each entry; one that a power cut tore, which nobody rests on, is left out."""
        yield from (data + b"\n" for _, data in self.stored() if _whole(data))

    def adopt(self, lines: Iterable[bytes]) -> Adopted:
        """Put entries of a copy where this journal lacks them; what is here stays.

        Where an entry has other bytes here, the copy is of a hub that went on by itself, as after a restore without its
        newest journal. What it forbade from there on is appended as new entries, unless the same act is here.

        Raises InvalidError for a line that is no entry.
        """
        put, acts = 0, None
        for line in lines:
            try:
                entry = msgspec.json.decode(line, type=Entry)
            except msgspec.DecodeError as error:
                raise InvalidError(f"not an entry of a journal: {error}", subject="journal") from error
            key, data = _key(entry.number), line.rstrip(b"\n")
            if acts is None and self._objects.put_new(key, data):
                put += 1
            elif acts is None and self._objects.get(key).data != data:
                acts = self._acts()
            if acts is not None and entry.act not in acts:
                self.append(entry.act, self._tail)
                acts.add(entry.act)
                put += 1
        return Adopted(put, acts is not None)

    def _acts(self) -> set[Act]:
        """Every act that is here."""
        return {entry.act for entry in self.read(Position(0, FIRST)).entries}


def write_act(session: Session, act: Act) -> None:
    """Write `act` into the journal before the session's transaction commits; nothing is written when it does not."""
    acts: list[Act] = session.info.setdefault(_ACTS, [])
    if not acts:
        event.listen(session, "before_commit", _before_commit)
    acts.append(act)


def position(session: Session) -> Position:
    """Up to where the database has carried the journal out."""
    row = session.get(Setting, POSITION, populate_existing=True)
    number, _, digest = (row.value if row is not None else "").partition(":")
    return Position(int(number), digest) if number.isdigit() else Position(0, FIRST)


def keep_position(session: Session, tail: Position) -> None:
    """Note that the database has carried out all entries up to `tail`."""
    session.merge(Setting(key=POSITION, value=f"{tail.number}:{tail.digest}"))


def _before_commit(session: Session) -> None:
    """Under a lock until the commit, so that entries stand in the order in which they are committed."""
    acts: list[Act] = session.info.get(_ACTS, [])
    if session.in_nested_transaction() or not acts:
        return
    session.info[_ACTS] = []
    journal: Journal = session.info[_JOURNAL]
    lock_name(session, POSITION)
    at, gapless = position(session), True
    for act in acts:
        at, follows = journal.append(act, at)
        gapless = gapless and follows
    if gapless:  # else an entry between was not carried out here: `replay` will, and comes by these again
        keep_position(session, at)


def _key(number: int) -> str:
    return f"{PREFIX}/{number:012d}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _whole(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        return False
    return True
