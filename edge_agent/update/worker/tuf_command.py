"""`edge-agent tuf-client`: the agent's own TUF updater, as the public conformance suite drives it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from tuf.api import exceptions

from edge_agent.errors import AgentError, UnreachableError
from edge_agent.identity.pool import pool_manager
from edge_agent.update.download.throttle import DownloadPace
from edge_agent.update.worker.tuf_client import BASE, Fetcher, HardenedUpdater


class PlainHttp:
    """Unauthenticated downloads by whole URL; implements `ports.HubStreams` for `tuf_client_main`."""

    def __init__(self) -> None:
        self._pool = pool_manager(retries=False)

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, timeout: float = 30.0
    ) -> Iterator[Any]:
        """See the port."""
        try:
            answer = self._pool.request(
                method, path, headers=headers, redirect=False, preload_content=False, timeout=timeout
            )
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"{path} does not answer: {error}", subject=path) from error
        try:
            yield answer
        finally:
            answer.close()


def tuf_client_main(argv: list[str]) -> int:
    """The command line of the public TUF client conformance suite, around the same updater; 0 or 1."""
    parser = argparse.ArgumentParser(prog="edge-agent tuf-client")
    for option in ("metadata-dir", "metadata-url", "target-base-url", "target-dir"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--target-name", action="append", default=[])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    given = parser.parse_args(argv)
    needed = ["metadata_dir"] + ([] if given.command == "init" else ["metadata_url"])
    needed += ["target_dir", "target_base_url"] if given.command == "download" else []
    missing = [f"--{name.replace('_', '-')}" for name in needed if getattr(given, name) is None]
    if missing:
        print(f"error: edge-agent tuf-client {given.command} needs {', '.join(missing)}", file=sys.stderr)
        return 2
    metadata = Path(given.metadata_dir)
    try:
        if given.command == "init":
            (metadata / "root_history").mkdir(parents=True, exist_ok=True)
            HardenedUpdater(
                str(metadata), BASE, fetcher=Fetcher(PlainHttp(), DownloadPace()), bootstrap=given.root.read_bytes()
            )
            return 0
        fetcher = Fetcher(PlainHttp(), DownloadPace(deadline_s=60.0), whole_urls=True)
        updater = HardenedUpdater(
            given.metadata_dir, given.metadata_url, given.target_dir, given.target_base_url, fetcher, bootstrap=None
        )
        updater.refresh()
        for name in given.target_name if given.command == "download" else ():
            info = updater.get_targetinfo(name)
            if info is None:
                raise exceptions.RepositoryError(f"nobody signed {name}")
            if updater.find_cached_target(info) is None:
                updater.download_target(info)
    except (exceptions.RepositoryError, exceptions.DownloadError, AgentError, OSError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0
