"""`edge-agent tuf-client`, the command line of the public TUF client conformance suite, on a real repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cloud_hub.identity.first_contact import FIRST_ROOT
from tests.support.hub import HubFixture, make_hub


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    import time

    made = make_hub(tmp_path, start=time.time())
    made.model()
    made.release()
    return made


@pytest.fixture
def url(hub: HubFixture, tmp_path: Path) -> Iterator[str]:
    """The repository as static files: what any web server or CDN could serve."""
    root = tmp_path / "www"
    for info in hub.hub.objects.list("tuf"):
        file = root / info.key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(hub.hub.objects.get(info.key).data)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tuf"
        server.shutdown()


def client(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent", "tuf-client", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_init_refresh_and_download(hub, url, tmp_path):
    metadata, targets, root = tmp_path / "metadata", tmp_path / "targets", tmp_path / "root.json"
    root.write_bytes(hub.hub.objects.get(FIRST_ROOT).data)
    targets.mkdir()
    assert client("--metadata-dir", metadata, "init", root).returncode == 0
    refreshed = client("--metadata-dir", metadata, "--metadata-url", f"{url}/metadata/", "refresh")
    assert refreshed.returncode == 0, refreshed.stderr
    assert {"root.json", "timestamp.json", "snapshot.json", "targets.json"} <= {f.name for f in metadata.iterdir()}
    words = ("--metadata-dir", metadata, "--metadata-url", f"{url}/metadata/", "--target-base-url", f"{url}/targets/")
    got = client(*words, "--target-dir", targets, "--target-name", "models/digits/1.json", "download")
    assert got.returncode == 0, got.stderr
    (file,) = list(targets.iterdir())
    assert b'"schema":1' in file.read_bytes()
    gone = client(*words, "--target-dir", targets, "--target-name", "models/digits/9.json", "download")
    assert gone.returncode == 1 and "nobody signed" in gone.stderr


def test_a_missing_option_is_a_usage_error_in_one_line():
    for command in (["refresh"], ["init", "root.json"]):
        done = client(*command)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "--metadata-dir" in done.stderr
