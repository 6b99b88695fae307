"""Takes rights from a process before it parses a model file: Landlock for files, seccomp for system calls.

A signature says who made a file, not that a runtime survives it. `confine_files`, before the runtime is
imported, leaves this process its interpreter, the libraries and the files named, all of them to read
only; `confine_calls`, after it, takes away what `syscall_filter` lists. Both are for good, and hold
for every later thread. A part that the kernel lacks is left out, and missing in the answer: the caller says so.

Source: Documentation/userspace-api/landlock.rst and seccomp_filter.rst of the Linux kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

import edge_agent
import fleet.protocol
import fleet.runtimes
from edge_agent.update.worker import syscall_filter

log = logging.getLogger(__name__)

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_ALL_SCOPES = 0b11  # abstract sockets, signals
_ALL_TCP = 0b11  # bind, connect
_ALL_THREADS, _ALL_THREADS_ABI = 1 << 3, 8  # LANDLOCK_RESTRICT_SELF_TSYNC
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _TSYNC = 1, 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}

SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/urandom",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/bus/pci/devices",
)


def landlock_abi() -> int:
    """The version of the kernel's Landlock; 0 without."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))


def machine() -> syscall_filter.Machine | None:
    """This process's architecture, if there is a filter for it: 64 bits, little-endian, Linux."""
    if sys.platform != "linux" or sys.byteorder != "little" or struct.calcsize("P") != 8:
        return None
    return syscall_filter.MACHINES.get(platform.machine())


def confine_files(files: Iterable[Path], *, never: Path) -> tuple[str, ...]:
    """From here on only interpreter, libraries and `files` can be opened, to read; and no TCP.

    Args:
        never: a folder that is not to be readable, whatever else is: the device's own.

    Returns:
        What is in force: `landlock-abi-N`, with `-one-thread` where other threads of this process
        already ran and the kernel cannot reach them; nothing where the kernel lacks it.
    """
    abi = landlock_abi()
    if not abi:
        log.warning("this kernel has no Landlock: the self-test can read what the agent can")
        return ()
    rights = _file_rights(abi)
    try:
        _no_new_privileges()
        ruleset = _create(abi, rights)
        try:
            for path in (*_libraries(never), *files):
                _allow(ruleset, path)
            threads = len(list(Path("/proc/self/task").iterdir()))
            flags = _ALL_THREADS if abi >= _ALL_THREADS_ABI else 0
            _must(_syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(flags)), "landlock_restrict_self")
        finally:
            os.close(ruleset)
    except OSError as error:
        log.warning("Landlock is not in force: %s", error)
        return ()
    return (f"landlock-abi-{abi}" + ("-one-thread" if threads > 1 and not flags else ""),)


def confine_calls() -> tuple[str, ...]:
    """From here on, in all threads, only harmless system calls; `seccomp`, or nothing where it cannot be."""
    known = machine()
    if known is None:
        log.warning("no filter of system calls for %s: the self-test can make any", platform.machine())
        return ()
    code = syscall_filter.program(known, os.getpid())
    lines = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(lines)))
    try:
        _no_new_privileges()
        number = _SECCOMP[platform.machine()]
        done = _syscall(number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_TSYNC), fprog)
        _must(done, "seccomp")  # above 0: a thread that has a filter of its own
    except OSError as error:
        log.warning("seccomp is not in force: %s", error)
        return ()
    return ("seccomp",)


def _file_rights(abi: int) -> int:
    """Every right on files that this version rules; what it rules and no rule allows is refused."""
    return (1 << 13 if abi < 2 else 1 << 14 if abi < 3 else 1 << 15 if abi < 5 else 1 << 16) - 1


def _create(abi: int, rights: int) -> int:
    attributes = struct.pack("<Q", rights)
    if abi >= 4:
        attributes += struct.pack("<Q", _ALL_TCP)
    if abi >= 6:
        attributes += struct.pack("<Q", _ALL_SCOPES)
    done = _syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    return _must(done, "landlock_create_ruleset")


def _allow(ruleset: int, path: Path) -> None:
    """Reading of a file, or of everything in a folder; a path that is not there needs no rule."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
            rule = struct.pack("<Qi", rights, fd)
            done = _syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
            _must(done, f"landlock_add_rule {path}")
        finally:
            os.close(fd)


def _libraries(never: Path) -> Iterator[Path]:
    """Yield the folders of interpreter, packages and system libraries; never the device's folder or one around it."""
    kept = never.resolve()
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # Not all of sys.path: the working directory is on it, which may be anybody's home.
    installed += [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages", "lib-dynload")]
    ours = [*edge_agent.__path__, *fleet.protocol.__path__, *fleet.runtimes.__path__]
    for path in dict.fromkeys(Path(entry) for entry in (*SYSTEM, *installed, *ours)):
        if path.resolve() not in (kept, *kept.parents):
            yield path


def _no_new_privileges() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) or 0, "PR_SET_NO_NEW_PRIVS")


def _syscall(number: int, *arguments: object) -> int:
    """Make a system call, and return the kernel's answer; -1 with errno set when it refuses."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return int(call(ctypes.c_long(number), *arguments))


def _must(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
