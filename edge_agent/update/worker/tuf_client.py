"""The TUF client: python-tuf's ngclient, hardened against power loss, slow servers and wrong clocks.

ngclient 7.0 never syncs what it writes, so a power loss could make it forget what it had seen and accept
a rollback. The overridden methods are private: `tuf` is pinned below 7.1, and tests guard the upgrade.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tuf.api import exceptions
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.errors import AgentError, ConflictError, FetchError, OlderMetadataError, TrustError
from edge_agent.host.clock import EPOCH
from edge_agent.host.clock import TimeFloor as TimeFloor
from edge_agent.host.durable import sweep_drafts, write_durably
from edge_agent.ports import HubStreams
from edge_agent.update.download.throttle import DownloadPace, paced
from edge_agent.update.rules import hints
from fleet.durable import sync
from fleet.protocol.blob import Blob

TIMESTAMP_S = 7 * 86_400.0  # how long a hub's timestamp lasts at most; the hub refuses to be told more
MAX_VERSION = 2**63 - 1  # what reports and the hub's database hold; a version above it is an attack
Maker = Callable[[Blob], bytes | None]  # a target's bytes without the repository; None where it cannot
BASE = "http://hub"  # a placeholder: only the path goes to the hub

log = logging.getLogger(__name__)


class HardenedUpdater(Updater):
    """Every file is synced before it gets its name, and every folder after."""

    def _persist_file(self, filename: str, data: bytes) -> None:
        write_durably(Path(filename), data)

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        """Nothing is kept whose version cannot even be reported: only a stolen key signs such a number."""
        version = self._trusted_set[rolename].version
        if version > MAX_VERSION:
            raise exceptions.BadVersionNumberError(f"{rolename} has a version above {MAX_VERSION}")
        super()._persist_metadata(rolename, data)

    def _update_root_symlink(self) -> None:
        link = Path(self._dir, "root.json")
        draft = link.with_name(".root.json.new")
        draft.unlink(missing_ok=True)
        draft.symlink_to(Path("root_history") / f"{self._trusted_set.root.version}.root.json")
        draft.replace(link)
        sync(link.parent)

    def download_target(
        self, targetinfo: TargetFile, filepath: str | None = None, target_base_url: str | None = None
    ) -> str:
        """Like ngclient's, but the file gets its name when it is whole, verified and synced."""
        final = Path(filepath or self._generate_target_file_path(targetinfo))
        part = final.with_name(final.name + ".part")
        super().download_target(targetinfo, str(part), target_base_url)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(final)
        sync(final.parent)
        return str(final)

    def keep_target(self, targetinfo: TargetFile, data: bytes) -> str:
        """Keep a target's bytes that did not come from the repository, as if they had; its file.

        Raises LengthOrHashMismatchError when they are not what was signed.
        """
        targetinfo.verify_length_and_hashes(data)
        final = Path(self._generate_target_file_path(targetinfo))
        write_durably(final, data)
        return str(final)

    def judge_expiry_at(self, moment: float) -> None:
        """Compare expiry dates with `moment` (Unix seconds) instead of this machine's clock."""
        self._trusted_set.reference_time = datetime.datetime.fromtimestamp(moment, datetime.UTC)

    def seen(self) -> tuple[dict[str, int], dict[str, float]]:
        """Versions and expiry (Unix seconds) of the trusted metadata, by role."""
        versions: dict[str, int] = {}
        expires: dict[str, float] = {}
        for role, signed in self._trusted_set._trusted_set.items():
            versions[role] = signed.version
            expires[role] = signed.expires.timestamp()
        return versions, expires


class Fetcher(FetcherInterface):
    """Metadata and targets through the hub's calls; no redirect, a deadline, a minimum speed."""

    def __init__(
        self, hub: HubStreams, pace: DownloadPace, *, gap_timeout_s: float = 30.0, whole_urls: bool = False
    ) -> None:
        self._hub, self._pace, self._gap_timeout_s, self._whole_urls = hub, pace, gap_timeout_s, whole_urls

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url if self._whole_urls else urlsplit(url).path
        with self._hub.stream("GET", path, timeout=self._gap_timeout_s) as answer:
            if answer.status != 200:
                raise exceptions.DownloadHTTPError(f"{path} answers HTTP {answer.status}", answer.status)
            yield from paced(answer.read1, self._pace, subject=path)


class Trusted:
    """A refreshed view of the repository. `problem` is empty, or why nothing new may be installed."""

    def __init__(
        self, updater: HardenedUpdater, now: float, problem: str = "", detail: str = "", *, remedy: str = ""
    ) -> None:
        self._updater, self._now, self._remedy = updater, now, remedy
        self.problem, self.detail = problem, detail
        self.versions, self.expires = updater.seen()
        self._read: set[str] = set()
        self._failed = False

    def read(self, path: str, limit: int, made: Maker | None = None) -> bytes | None:
        """Return the verified bytes of a target; None when nobody signed it.

        A delegated role is read when it is first needed. If it has expired, that becomes the `problem` now.

        Args:
            path: the target's.
            limit: bytes that are read at most.
            made: makes the target of its signed hash and length, in place of a download; None for none.

        Raises:
            TrustError, FetchError, UnreachableError: it cannot be had, or is not the signed one.
        """
        failed, self._failed = self._failed, True
        with _translated(path):
            info = self._info(path)
            self.versions, self.expires = self._updater.seen()
            if info is not None and info.length > limit:
                raise FetchError(f"{path} has {info.length} bytes, at most {limit} are allowed", reason="too-large")
            data = None if info is None else self._bytes(info, made)
        self._failed = failed
        return data

    def forget_unread(self, targets: Path) -> None:
        """Remove the files in `targets` that this view did not need, unless it could not tell: a release is read once,
        and would stay for ever."""
        if self._failed or self.problem:
            return
        with contextlib.suppress(OSError):  # a disk that refuses keeps them
            for path in targets.iterdir():
                if path.name not in self._read:
                    path.unlink()

    def _bytes(self, info: TargetFile, made: Maker | None) -> bytes:
        kept = self._updater.find_cached_target(info) or self._made(info, made)
        path = Path(kept or self._updater.download_target(info))
        self._read.add(path.name)
        return path.read_bytes()

    def _made(self, info: TargetFile, made: Maker | None) -> str | None:
        sha256 = info.hashes.get("sha256")
        data = made(Blob(sha256=sha256, size=info.length)) if made is not None and sha256 is not None else None
        if data is None:
            return None
        try:
            return self._updater.keep_target(info, data)
        except exceptions.LengthOrHashMismatchError as error:
            log.info("what was made of %s is not what was signed: %s", info.path, error)
            return None

    def _info(self, path: str) -> TargetFile | None:
        try:
            return self._updater.get_targetinfo(path)
        except exceptions.ExpiredMetadataError as error:
            if not self.problem:
                self.problem, self.detail = "expired-metadata", hints.expired(str(error), self._now, self._remedy)
            self._updater.judge_expiry_at(EPOCH)  # signatures and versions still count, as after an expired refresh
            return self._updater.get_targetinfo(path)


@contextlib.contextmanager
def opened(
    directory: Path,
    root: bytes,
    fetcher: Fetcher,
    floor: TimeFloor,
    *,
    clock: Callable[[], float] = time.time,
    remedy: str = "",
) -> Iterator[Trusted]:
    """Refresh the metadata in a directory, alone: a second instance is refused.

    Expired metadata and a clock behind the floor still give a view: signatures and versions hold in it, and `problem`
    (`expired-metadata`, `clock-untrusted`) forbids everything but releases that are held.

    Args:
        directory: of the metadata.
        root: the first root, as the claim token pinned it.
        fetcher: brings files from the hub or a bundle.
        floor: the latest moment that is known to have passed.
        clock: Unix seconds.
        remedy: advice about expired metadata that no hub served.

    Raises:
        ConflictError: another instance works here.
        TrustError, FetchError, UnreachableError: the metadata cannot be had, or does not hold.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    (directory / "targets").mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(f"another updater works in {directory}", subject=str(directory)) from error
        try:
            trusted = _refreshed(directory, root, fetcher, floor, clock(), remedy)
            yield trusted
            trusted.forget_unread(directory / "targets")
        finally:
            sweep_drafts(directory, directory / "root_history")


def _refreshed(directory: Path, root: bytes, fetcher: Fetcher, floor: TimeFloor, now: float, remedy: str) -> Trusted:
    trusted_clock = floor.trusts(now)
    with _translated("metadata"):
        updater = _updater(directory, root, fetcher)
        updater.judge_expiry_at(max(now, floor.value))
        try:
            updater.refresh()
        except exceptions.ExpiredMetadataError as error:
            updater = _updater(directory, root, fetcher)
            updater.judge_expiry_at(EPOCH)  # signatures and versions still count; `problem` stops new installs
            updater.refresh()
            if trusted_clock:
                return Trusted(updater, now, "expired-metadata", hints.expired(str(error), now, remedy), remedy=remedy)
    signed = updater.seen()[1]["timestamp"] - TIMESTAMP_S
    if not trusted_clock:
        borne_out = signed - floor.slack_s <= now < signed + TIMESTAMP_S  # by this clock the metadata is fresh
        detail = hints.floor_ahead(now, floor.value, floor.path) if borne_out else hints.clock_behind(now, floor.value)
        return Trusted(updater, now, "clock-untrusted", detail, remedy=remedy)
    # A clock that runs ahead must not become the floor, or the right time would be refused afterwards: only
    # what is signed counts. A timestamp lasts `TIMESTAMP_S` at most, so it was signed no earlier than that.
    floor.raise_to(min(now, signed))
    return Trusted(updater, now, remedy=remedy)


def _updater(directory: Path, root: bytes, fetcher: Fetcher) -> HardenedUpdater:
    return HardenedUpdater(
        str(directory),
        f"{BASE}/tuf/metadata/",
        str(directory / "targets"),
        f"{BASE}/tuf/targets/",
        fetcher,
        bootstrap=root,
    )


@contextlib.contextmanager
def _translated(subject: str) -> Iterator[None]:
    """python-tuf's errors as this room's."""
    try:
        yield
    except exceptions.BadVersionNumberError as error:
        hint = "an old copy is served, or the hub was restored from a backup and has not caught up yet"
        raise OlderMetadataError(f"{subject}: {error}", subject=subject, hint=hint) from error
    except exceptions.RepositoryError as error:
        hint = "the hub or somebody between serves metadata that its keys did not sign, or an old copy"
        raise TrustError(f"{subject}: {error}", subject=subject, hint=hint) from error
    except exceptions.DownloadHTTPError as error:
        raise hints.answered(error.status_code, str(error), subject) from error
    except exceptions.DownloadLengthMismatchError as error:
        raise FetchError(f"{subject}: {error}", subject=subject, reason="too-large") from error
    except exceptions.DownloadError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, AgentError) else FetchError(str(error), subject=subject) from error
