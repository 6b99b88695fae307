"""The confinement of a self-test: the filter of system calls by itself, and both parts in real processes."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from edge_agent import runtimes
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from edge_agent.update.worker import sandbox
from edge_agent.update.worker.client import ProcessChildren
from edge_agent.update.worker.syscall_filter import (
    ABSENT,
    ABSENT_CALLS,
    ALLOW,
    CLONE,
    CLONE_THREAD,
    FCNTL,
    FCNTLS,
    IOCTL,
    IOCTLS,
    KILL,
    KILL_CALL,
    MACHINES,
    NEWEST,
    OPEN,
    OPENAT,
    PRCTL,
    PRLIMIT,
    REFUSE,
    REFUSED,
    SCHED_SETAFFINITY,
    TGKILL,
    program,
)
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.agent_process import ROOT, enrolled
from tests.support.device import Device, claim, follow, listening, publish
from tests.support.hub import make_hub

PID = 4321
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ABI = sandbox.landlock_abi()
FILTERED = sandbox.machine() is not None and "Seccomp:" in Path("/proc/self/status").read_text()
WITH_ARGUMENTS = {
    "clone": CLONE,
    "open": OPEN,
    "openat": OPENAT,
    "kill": KILL_CALL,
    "tgkill": TGKILL,
    "prlimit64": PRLIMIT,
    "prctl": PRCTL,
    "ioctl": IOCTL,
    "fcntl": FCNTL,
    "sched_setaffinity": SCHED_SETAFFINITY,
}
IN_FORCE = (*([f"landlock-abi-{ABI}"] if ABI else []), *(["seccomp"] if FILTERED else []))


def interpret(code: bytes, number: int, audit: int, arguments: tuple[int, ...] = ()) -> int:
    """The answer of the kernel: classic BPF over `struct seccomp_data` (Linux, filter.rst)."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<iIQ6Q", number - (1 << 32 if number >= 1 << 31 else 0), audit, 0, *padded)
    lines = list(struct.iter_unpack("<HBBI", code))
    at, value = 0, 0
    while True:
        operation, if_true, if_false, k = lines[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("<I", data, k)
        elif operation == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x25: value > k, 0x45: bool(value & k)}[operation]
            at += if_true if holds else if_false


@pytest.fixture(params=MACHINES)
def asked(request):
    """(ask(number, *arguments), column of the architecture)."""
    machine = MACHINES[request.param]
    code = program(machine, PID)
    return lambda number, *arguments: interpret(code, number, machine.audit, arguments), machine.column


def test_every_number_gets_the_answer_of_the_tables(asked):
    ask, column = asked
    refused = {numbers[column] for numbers in REFUSED.values()}
    absent = {numbers[column] for numbers in ABSENT_CALLS.values()}
    with_arguments = {numbers[column] for numbers in WITH_ARGUMENTS.values()}
    for number in {*range(NEWEST + 200), 1 << 30, (1 << 30) + 59, (1 << 31) + 1, (1 << 32) - 1} - with_arguments:
        expected = REFUSE if number in refused else ABSENT if number in absent or number > NEWEST else ALLOW
        assert ask(number) == expected, number


def test_arguments_decide_where_a_call_is_harmless_with_some(asked):
    ask, column = asked
    threads = os.O_CLOEXEC | CLONE_THREAD | 0x100
    cases = [
        (CLONE, (threads,), ALLOW),
        (CLONE, (17,), REFUSE),
        (CLONE, (0x10000000,), REFUSE),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOW),
        (OPENAT, (0, 0, os.O_WRONLY), REFUSE),
        (OPENAT, (0, 0, os.O_RDWR), REFUSE),
        (OPENAT, (0, 0, os.O_CREAT), REFUSE),
        (OPENAT, (0, 0, os.O_TRUNC), REFUSE),
        (KILL_CALL, (PID, 9), ALLOW),
        (KILL_CALL, (1, 9), REFUSE),
        (KILL_CALL, ((1 << 64) - 1, 9), REFUSE),
        (TGKILL, (PID, PID, 6), ALLOW),
        (TGKILL, (PID + 1, PID + 1, 6), REFUSE),
        (PRLIMIT, (0, 9, 0, 1 << 40), ALLOW),
        (PRLIMIT, (0, 9, 0x1000), REFUSE),
        (PRLIMIT, (0, 9, 1 << 40), REFUSE),
        (PRCTL, (15,), ALLOW),
        (PRCTL, (1, 0), REFUSE),
        (PRCTL, (62, 1), REFUSE),
        (SCHED_SETAFFINITY, (0,), ALLOW),
        (SCHED_SETAFFINITY, (PID,), ALLOW),
        (SCHED_SETAFFINITY, (PID - 1,), REFUSE),
    ]
    for numbers, arguments, expected in cases:
        assert ask(numbers[column], *arguments) == expected, (numbers, arguments)
    for numbers, allowed in ((FCNTL, FCNTLS), (IOCTL, IOCTLS)):
        for command in {*range(1100), *range(0x5400, 0x5500), *range(0x8900, 0x8A00), *allowed}:
            assert ask(numbers[column], 0, command) == (ALLOW if command in allowed else REFUSE), command
            assert ask(numbers[column], 0, command | 1 << 32) == ask(
                numbers[column], 0, command
            )  # the kernel reads it so
    if OPEN[column] >= 0:
        assert (ask(OPEN[column], 0, os.O_RDONLY), ask(OPEN[column], 0, os.O_RDWR)) == (ALLOW, REFUSE)


@pytest.mark.parametrize("name", MACHINES)
def test_a_call_of_another_architecture_ends_the_process(name):
    code = program(MACHINES[name], PID)
    others = {m.audit for other, m in MACHINES.items() if other != name} | {0x40000003, 0x40000028}
    assert {interpret(code, 0, audit) for audit in others} == {KILL}
    assert len(code) % 8 == 0 and len(code) // 8 < 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("name", MACHINES)
def test_numbers_are_the_kernels(name):
    if not HEADERS[name].exists():
        pytest.skip(f"{HEADERS[name]} is missing; run: apt-get install linux-libc-dev")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[name].read_text())
    theirs = {call: int(number) for call, number in found}
    tables = {**REFUSED, **ABSENT_CALLS, **WITH_ARGUMENTS}
    ours = {call: numbers[MACHINES[name].column] for call, numbers in tables.items()}
    newest = max(theirs.values())  # the header may be older than the table
    assert {call: n for call, n in ours.items() if n <= newest} == {
        call: theirs.get(call, -1) for call in ours if ours[call] <= newest
    }


PROBES = """
    import ctypes, fcntl, json, os, signal, socket, sys, threading
    from pathlib import Path
    from edge_agent.update.worker import sandbox, syscall_filter

    device, parts, outside, port = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    blob, other = device / "blobs" / "mine", device / "blobs" / "other"
    libc = ctypes.CDLL(None, use_errno=True)

    def called(name, *arguments):
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    def forked():
        if os.fork() == 0:
            os._exit(0)

    def ran(target):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

    def connected():
        with socket.socket() as one:
            one.connect(("127.0.0.1", port))

    def numbered(name, *arguments):  # a call that the C library has no function for
        called("syscall", syscall_filter.REFUSED[name][sandbox.machine().column], *arguments)

    # What would reach the parent, which is the agent's place. Each step by itself leaves it as it is.
    parent, (ours, _) = os.getppid(), os.pipe()
    owner = int.to_bytes(parent, 4, "little")
    F_SETSIG, F_SETOWN_EX, FIOSETOWN, FIOASYNC, PR_SCHED_CORE = 10, 15, 0x8901, 0x5452, 62

    probes = {
        "write outside": lambda: outside.write_text("x"),
        "write into the store": lambda: (device / "blobs" / "new").write_text("x"),
        "change a blob": lambda: blob.open("r+b").write(b"x"),
        "unlink a blob": blob.unlink,
        "read the identity key": (device / "identity" / "device.key").read_bytes,
        "read another blob": other.read_bytes,
        "list the store": lambda: os.listdir(device / "blobs"),
        "connect": connected,
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "fork": forked,
        "ptrace": lambda: called("ptrace", 0, 0, 0, 0),
        "mount": lambda: called("mount", b"none", str(device).encode(), b"tmpfs", 0, None),
        "kill another": lambda: os.kill(os.getppid(), 0),
        "raise a limit": lambda: __import__("resource").setrlimit(7, (64, 64)),
        "a name space": lambda: called("unshare", 0x10000000),
        "own a pipe": lambda: fcntl.fcntl(ours, fcntl.F_SETOWN, parent),
        "own a pipe, newer": lambda: fcntl.fcntl(ours, F_SETOWN_EX, int.to_bytes(1, 4, "little") + owner),
        "own a pipe, otherwise": lambda: fcntl.ioctl(ours, FIOSETOWN, owner),
        "choose its signal": lambda: fcntl.fcntl(ours, F_SETSIG, signal.SIGCONT),
        "ask for signals": lambda: fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC),
        "ask for signals, otherwise": lambda: fcntl.ioctl(ours, FIOASYNC, int.to_bytes(1, 4, "little")),
        "lock a file": lambda: fcntl.flock(ours, fcntl.LOCK_SH),
        "lock a range": lambda: fcntl.lockf(os.open(sys.executable, os.O_RDONLY), fcntl.LOCK_SH),
        "slow the parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, os.getpriority(os.PRIO_PROCESS, parent)),
        "move the parent": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(parent)),
        "idle the parent": lambda: os.sched_setscheduler(parent, os.SCHED_OTHER, os.sched_param(0)),
        "idle the parent, older": lambda: os.sched_setparam(parent, os.sched_param(0)),
        "the parent's disk": lambda: numbered("ioprio_set", 1, parent, 0),
        "the parent's core": lambda: called("prctl", PR_SCHED_CORE, 1, parent, 0, 0),
        "the disk": lambda: called("syncfs", ours),
        "a process group": lambda: os.setpgid(0, 0),
        "a session": os.setsid,
        "run on a processor": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
        "look at a descriptor": lambda: (fcntl.fcntl(ours, fcntl.F_GETFL), os.set_inheritable(ours, False)),
        "read its blob": blob.read_bytes,
        "import": lambda: __import__("xml.dom.minidom"),
        "read the processor's features": Path("/proc/cpuinfo").read_bytes,
        "a thread": lambda: ran(lambda: None),
    }
    harmful = ("exec", "ptrace", "mount", "a name space", "the parent's core", "a session")
    import resource
    force = sandbox.confine_files([blob], never=device) if "files" in parts else ()
    force += sandbox.confine_calls() if "calls" in parts else ()
    said = {}

    def probe(name):
        try:
            probes[name]()
            said[name] = 0
        except OSError as error:
            said[name] = error.errno
        except ValueError:  # how setrlimit says EPERM
            said[name] = 1

    for name in probes:  # in a thread that began after the confinement: it must hold there, too
        # unconfined, some would do what they say: end this process, or change the machine
        if "calls" in parts or name not in harmful:
            ran(lambda: probe(name)) if sys.argv[5] == "thread" and name not in ("exec", "fork") else probe(name)
    print(json.dumps([force, said]))
"""
FINE = (
    "read its blob",
    "import",
    "read the processor's features",
    "a thread",
    "run on a processor",
    "look at a descriptor",
)
READING = ("read the identity key", "read another blob", "list the store")
WRITING = ("write outside", "write into the store", "change a blob", "unlink a blob")
PARENT = (
    "own a pipe",
    "own a pipe, newer",
    "choose its signal",
    "ask for signals",
    "ask for signals, otherwise",
    "lock a file",
    "lock a range",
    "slow the parent",
    "move the parent",
    "idle the parent",
    "idle the parent, older",
    "the parent's disk",
    "the disk",
    "a process group",
)
CALLS = (
    "connect",
    "udp",
    "exec",
    "fork",
    "ptrace",
    "mount",
    "kill another",
    "raise a limit",
    "a name space",
    *PARENT,
    "own a pipe, otherwise",
    "the parent's core",
    "a session",
)


def probed(tmp_path: Path, parts: str, where: str = "main") -> tuple[list[str], dict[str, int]]:
    """The report of a child that gave `parts` up and then tried everything."""
    device, outside = tmp_path / "device", tmp_path / "outside"
    for name in ("blobs/mine", "blobs/other", "identity/device.key"):
        (device / name).parent.mkdir(parents=True, exist_ok=True)
        (device / name).write_bytes(b"bytes")
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(PROBES),
            device,
            parts,
            outside,
            str(server.getsockname()[1]),
            where,
        ]
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    force, said = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert all(said[name] == 0 for name in FINE if name != "read its blob" or (device / "blobs" / "mine").exists()), (
        said
    )
    return force, said


@pytest.mark.parametrize("where", ["main", "thread"])
def test_everything_harmful_is_refused_and_what_is_missing_is_named(tmp_path, where):
    force, said = probed(tmp_path, "files calls", where)
    assert tuple(force) == IN_FORCE
    denied = (*(CALLS + WRITING if FILTERED else ()), *(READING + WRITING if ABI else ()))
    assert {name for name in denied if said[name] not in (errno.EPERM, errno.EACCES)} == set()
    if denied:
        assert not (tmp_path / "outside").exists()
        assert (tmp_path / "device" / "blobs" / "mine").read_bytes() == b"bytes"


@pytest.mark.skipif(not FILTERED, reason="this kernel or architecture has no seccomp")
def test_the_filter_alone_lets_nothing_be_written_or_started(tmp_path):
    force, said = probed(tmp_path, "calls")
    assert force == ["seccomp"]
    assert {said[name] for name in (*CALLS, *WRITING)} == {errno.EPERM}
    assert {said[name] for name in READING} == {0}


@pytest.mark.skipif(not ABI, reason="this kernel has no Landlock")
def test_landlock_alone_rules_files_programs_and_tcp(tmp_path):
    force, said = probed(tmp_path, "files")
    assert force == [f"landlock-abi-{ABI}"]
    assert {said[name] for name in (*READING, *WRITING)} == {errno.EACCES}
    assert said["udp"] == 0 and (ABI < 4 or said["connect"] == errno.EACCES)


@pytest.mark.skipif(not ABI, reason="this kernel has no Landlock")
def test_without_confinement_the_same_probes_succeed(tmp_path):
    force, said = probed(tmp_path, "")
    assert force == []
    assert {said[name] for name in (*WRITING, *READING, *PARENT, "connect", "udp", "fork", "kill another")} <= {
        0,
        errno.ENOENT,
    }


def test_a_kernel_without_either_is_named_by_an_empty_list(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(sandbox, "landlock_abi", lambda: 0)
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    assert sandbox.confine_files([], never=tmp_path) + sandbox.confine_calls() == ()
    assert "no Landlock" in caplog.text and "riscv64" in caplog.text


def test_the_devices_folder_is_never_among_the_readable_ones(tmp_path):
    site = Path(next(p for p in sys.path if p.endswith("site-packages")))
    assert site in list(sandbox._libraries(tmp_path))
    inside = list(sandbox._libraries(site / "device"))
    assert site not in inside and not any((site / "device").is_relative_to(path) for path in inside)


def installed(tmp_path, name):
    """A device that holds a release for a runtime."""
    kind = runtimes.RUNTIMES[name][1]
    data = models.onnx_bytes() if kind == "onnx" else models.litert_bytes("fp32")
    directory = enrolled(tmp_path / "device")
    made = models.release(directory / "blobs", data=data, runtime=kind)
    digest = Store(directory).put_manifest(encode_manifest(made.manifest))
    return directory, HeldRelease(release=1, variant=made.variant.name, manifest=digest)


@pytest.mark.parametrize("name", ["ai-edge-litert", "onnxruntime"])  # test_tflite_environment.py has the third
def test_self_tests_pass_inside_on_every_runtime(name, tmp_path):
    directory, held = installed(tmp_path, name)
    assert asyncio.run(ProcessChildren(directory).trial(held)) == ("rlimits", *IN_FORCE)


def test_status_shows_what_was_in_force_also_after_a_restart(tmp_path):
    hub = make_hub(tmp_path, start=time.time())
    follow(hub, publish(hub, tmp_path))
    with listening(hub) as url:
        device = Device(url, claim(hub), tmp_path / "agent")
        assert device.updater.status()["sandbox"] == ()  # nothing was tried yet
        device.look()
    assert device.updater.status()["sandbox"] == ("rlimits", *IN_FORCE)
    assert device.restart().status()["sandbox"] == ("rlimits", *IN_FORCE)


def test_it_can_be_switched_off_where_a_runtime_needs_what_it_refuses(tmp_path):
    directory, held = installed(tmp_path, "onnxruntime")
    (directory / "agent.toml").write_text("selftest_sandbox = false\n")
    assert asyncio.run(ProcessChildren(directory).trial(held)) == ("rlimits",)
