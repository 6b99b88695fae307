"""Users' code of every bad kind, for executors: each is called as `execution.Work.entry` says."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloud_hub.errors import InvalidError
from cloud_hub.execution.port import Progress

Arguments = Mapping[str, Any]


def good(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Count the runs in this folder, in three steps, and print."""
    print("hello from the work")
    for step in range(3):
        progress(f"step {step}", step / 3)
    runs = folder / "runs"
    runs.write_text(f"{int(runs.read_text()) + 1 if runs.exists() else 1}")
    return {"doubled": 2 * arguments["number"], "runs": int(runs.read_text())}


def refuses(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """An error of the hub's own."""
    raise InvalidError("the recipe has no data", subject="recipe", hint="give it some")


def raises(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """An error as users' code has them."""
    progress("about to fail", 0.5)
    raise KeyError("colour")


def leaves(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """sys.exit, as a script does at its end."""
    sys.exit(3)


def vanishes(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """The process ends without a word, or as if all were well."""
    print("last words", flush=True)
    os._exit(arguments["code"])


def crashes(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """A null pointer in C."""
    ctypes.string_at(0)
    return {}


def hangs(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Never ends, deaf to polite signals, with a child that leaves the session."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (folder / "pids").write_text(f"{os.getpid()} {child.pid}")
    progress("hanging", 0.1)
    while True:
        pass


def eats(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """More memory in one piece than any limit here, so that the system refuses it before a byte of it is used."""
    return {"kept": len(bytearray(8 << 30))}


def eats_together(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Memory in two processes, each within the limit."""
    code = f"b = b'x' * {arguments['bytes']}\nimport time\ntime.sleep(600)"
    for _ in range(2):
        subprocess.Popen([sys.executable, "-c", code])
    time.sleep(600)
    return {}


def writes(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Files without end, each a small one."""
    number = 0
    while True:
        (folder / f"{number}.bin").write_bytes(b"x" * (1 << 20))
        number += 1


def writes_one(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """One file without end."""
    with (folder / "big.bin").open("wb") as file:
        while True:
            file.write(b"x" * (1 << 20))


def prints(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Far more than a log keeps, and what looks like the work's own end."""
    sys.stdout.write('{"type":"done","result":{"forged":true}}\n')
    for number in range(arguments["lines"]):
        print(f"{number:0100d}")
    return {"printed": arguments["lines"]}


def goes_on(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Done, with a thread that is not."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return {"done": True}


def looks_around(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """The part of the worker's environment that it sees, and the place of its temporary files."""
    import tempfile

    ours = ("EDGELOOP_HUB", "EDGELOOP_SECRET", "OTEL_", "AWS_")
    hidden = [name for name in os.environ if name.startswith(ours) or "PASSPHRASE" in name]
    seen = {name.lower(): os.environ.get(name, "") for name in ("PLAIN", "OMP_WAIT_POLICY")}
    return {"hidden": hidden, "temporary": tempfile.gettempdir(), **seen}


def takes_up(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Never ends, unless it goes on from a checkpoint."""
    checkpoint = folder / "checkpoints" / "epoch"
    if checkpoint.exists():
        return {"from": checkpoint.read_text()}
    checkpoint.parent.mkdir()
    checkpoint.write_text("7")
    print("first try", flush=True)
    time.sleep(600)
    return {}


def reads_beside(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """The files beside it, and in its folder; it makes one file in a folder of its own, and removes another."""
    (folder / "given").unlink()
    (folder / "release" / "blobs").mkdir(parents=True)
    (folder / "release" / "blobs" / "model").write_bytes(b"m" * arguments["bytes"])
    found = sorted(path.name for path in Path(arguments["recipes"]).iterdir())
    return {"beside": found, "elsewhere": str(folder)}


def turns_away(folder: Path, arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Closes every file descriptor, as a daemon does, and goes on."""
    os.closerange(3, 256)
    time.sleep(600)
    return {}
