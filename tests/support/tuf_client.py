"""The reference TUF client over an object store: what a device would accept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from cloud_hub.errors import NotFoundError
from cloud_hub.ports import Objects


class StoreFetcher(FetcherInterface):
    """Serves `http://store/<key>` from the object store."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield self._objects.get(urlsplit(url).path.lstrip("/")).data
        except NotFoundError:
            raise DownloadHTTPError("not found", 404) from None


def client(objects: Objects, directory: Path, *, first_root: bytes | None = None) -> Updater:
    """An updater over `objects`, with its state in `directory`, that has refreshed once."""
    for name in ("metadata", "targets"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    updater = Updater(
        str(directory / "metadata"),
        "http://store/tuf/metadata/",
        str(directory / "targets"),
        "http://store/tuf/targets/",
        StoreFetcher(objects),
        bootstrap=first_root or objects.get("tuf/metadata/1.root.json").data,
    )
    updater.refresh()
    return updater


def target(updater: Updater, path: str) -> bytes | None:
    """The verified bytes of a target, or None when nobody signed it."""
    info = updater.get_targetinfo(path)
    if info is None:
        return None
    return Path(updater.download_target(info)).read_bytes()
