"""Copies of a journal that a restore is given or finds: read and decoded whole before anything is written.

A copy is a folder or an `s3://` URL, named as it is: with the entries in it, or with the `journal` folder that holds
them; or a file with a line for each entry, as a backup has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from cloud_hub.acts import Entry
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.journal import LIMIT, PREFIX
from cloud_hub.objects import open_objects

_FILE = re.compile(r"([0-9]{12})\.json")


def read_copy(url: str) -> tuple[bytes, ...]:
    """The entries of a copy in their order, each decoded once.

    Raises:
        NotFoundError: there is nothing, or no entry in it. InvalidError: an entry is damaged.
        UnreachableError: the bucket does not answer.
    """
    found = _entries(url)
    if not found and not ("://" not in url and Path(url).is_file()):
        hint = "give the folder with the files 000000000001.json and so on, or an s3:// URL"
        raise NotFoundError(f"no entries of a journal in {url}", subject=url, hint=hint)
    return found


def read_own(url: str) -> tuple[bytes, ...]:
    """The entries of the journal that the hub of a backup has used; none where none was written."""
    try:
        return _entries(url)
    except NotFoundError:
        return ()


def refuse_older(given: Iterable[bytes], known: Iterable[bytes], position: int) -> None:
    """Refuse a copy that ends before the backup's database and holds nothing that the backup does not.

    Raises:
        InvalidError: the copy is such.
    """
    given = tuple(given)
    last = max((_decoded(line, "the copy").number for line in given), default=0)
    if last < position and set(given) <= set(known):
        hint = "give the newest copy; where there is none, leave --journal out"
        why = f"the copy of the journal ends at entry {last}, and the backup knows {position}"
        raise InvalidError(why, subject="journal", hint=hint)


def _entries(url: str) -> tuple[bytes, ...]:
    if "://" in url:
        files = _in_bucket(url)
    elif (path := Path(url)).is_file():
        files = [(f"{path} line {at}", line) for at, line in enumerate(path.read_bytes().splitlines(), 1)]
    elif path.is_dir():
        files = _in_folder(path / PREFIX) or _in_folder(path)
    else:
        hint = "give the folder of the copy, or an s3:// URL"
        raise NotFoundError(f"there is no copy of a journal at {url}", subject=url, hint=hint)
    if files and _is_torn(files[-1][1]):
        files.pop()  # copied while it was written, or torn by a power cut: nobody has rested on it
    for name, data in files:
        _decoded(data, name)
    return tuple(data for _, data in files)


def _in_folder(folder: Path) -> list[tuple[str, bytes]]:
    if not folder.is_dir():
        return []
    return [(str(path), path.read_bytes()) for path in sorted(folder.iterdir()) if _FILE.fullmatch(path.name)]


def _in_bucket(url: str) -> list[tuple[str, bytes]]:
    scheme, _, place = url.rstrip("/").partition("://")
    bucket, _, folder = place.partition("/")
    objects = open_objects(f"{scheme}://{bucket}")

    def listed(prefix: str) -> Iterator[str]:
        for found in objects.list(prefix):
            before, _, name = found.key.rpartition("/")
            if before == prefix and _FILE.fullmatch(name):
                yield found.key

    inside = f"{folder}/{PREFIX}" if folder else PREFIX
    keys = sorted(listed(inside)) or (sorted(listed(folder)) if folder else [])
    return [(f"{scheme}://{bucket}/{key}", objects.get(key).data) for key in keys]


def _is_torn(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except msgspec.DecodeError:
        return True
    return False


def _decoded(data: bytes, name: str) -> Entry:
    try:
        return msgspec.json.decode(data[:LIMIT], type=Entry)
    except msgspec.DecodeError as error:
        hint = "copy it again; to restore without this entry, take its file out of the copy"
        raise InvalidError(f"{name} is not an entry of a journal: {error}", subject="journal", hint=hint) from error
