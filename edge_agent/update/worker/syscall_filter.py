"""The system calls that a process which parses a model file may make, as a classic BPF program for seccomp. Pure.

Refused are the calls that start programs or processes, reach other processes (to signal them, or to slow them
down) or the network, change or lock a file or a file system, administer the kernel, or get around the filter
(io_uring). Threads, memory and reading stay. Files are ruled by Landlock; that opening one for writing is
refused here, too, counts where the kernel lacks Landlock and for threads that were there before it. Numbers
are those of the kernel's `asm/unistd_64.h` (x86_64) and `asm-generic/unistd.h` (aarch64).
"""

from __future__ import annotations

import errno
import os
import struct

from msgspec import Struct

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS
_ERRNO = 0x00050000
REFUSE = _ERRNO | errno.EPERM
ABSENT = _ERRNO | errno.ENOSYS  # libraries take this for an older kernel and do without

NEWEST = 466  # what later kernels add is absent; with it x86_64's x32 calls, whose numbers begin at 2**30
CLONE_THREAD = 0x10000
# Of fcntl and ioctl only what asks about a descriptor, copies it or closes it on exec. Others name a process that
# the kernel is to signal (F_SETOWN, FIOSETOWN: the parent, with SIGKILL by F_SETSIG), change descriptors that the
# parent has, too (its standard error), lock files, set flags of files that are open to read only, or type into
# the terminal that the process was started from.
FCNTLS = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
IOCTLS = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5450, 0x5451)  # TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIO(N)CLEX
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_PTRACER = 1, 4, 0x59616D61
_PR_SCHED_CORE = 62  # keeps the other threads of a core idle while a given process runs

# name: (x86_64, aarch64); -1 where the architecture has no such call
REFUSED: dict[str, tuple[int, int]] = {
    # programs and other processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # network and messages
    "socket": (41, 198),
    "socketpair": (53, 199),
    "bind": (49, 200),
    "connect": (42, 203),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # file systems and files
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "acct": (163, 89),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "rmdir": (84, -1),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "creat": (85, -1),
    "truncate": (76, 45),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "flock": (73, 32),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "lookup_dcookie": (212, 18),
    # the kernel, identities and limits
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setgroups": (116, 159),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
    "personality": (135, 92),
    "setrlimit": (160, 164),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
}
ABSENT_CALLS: dict[str, tuple[int, int]] = {
    "clone3": (435, 435),  # its flags lie in memory, which a filter cannot read; the C library falls back to clone
    "openat2": (437, 437),  # likewise
}
# Calls that are allowed with some arguments: (x86_64, aarch64).
CLONE, OPEN, OPENAT = (56, 220), (2, -1), (257, 56)
KILL_CALL, TGKILL, PRLIMIT, PRCTL, IOCTL = (62, 129), (234, 131), (302, 261), (157, 167), (16, 29)
FCNTL, SCHED_SETAFFINITY = (72, 25), (203, 122)

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|…|K, BPF_RET|K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


class Machine(Struct, frozen=True):
    """An architecture: its AUDIT_ARCH value and its column in the tables."""

    audit: int
    column: int


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}


def program(machine: Machine, pid: int) -> bytes:
    """The filter for the process `pid`: `struct sock_filter` after `struct sock_filter`, 8 bytes each.

    A call of another architecture, whose numbers mean other things, ends the process.
    """
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, machine.audit, 1, 0),
        _line(_RETURN, KILL),
        _line(_LOAD, _NUMBER),
        _line(_GREATER, NEWEST, 0, 1),
        _line(_RETURN, ABSENT),
    ]
    for table, answer in ((REFUSED, REFUSE), (ABSENT_CALLS, ABSENT)):
        for numbers in table.values():
            lines += _on(numbers[machine.column], [_line(_RETURN, answer)])
    for numbers, body in _with_arguments(pid):
        lines += _on(numbers[machine.column], body)
    return b"".join([*lines, _line(_RETURN, ALLOW)])


def _with_arguments(pid: int) -> list[tuple[tuple[int, int], list[bytes]]]:
    own = _chosen(0, (pid,), ALLOW, REFUSE)
    unwritten = [_line(_ANY_BIT, _WRITING, 0, 1), *_end(REFUSE), *_end(ALLOW)]
    threads = [*_argument(0), _line(_ANY_BIT, CLONE_THREAD, 0, 1), *_end(ALLOW), *_end(REFUSE)]
    nothing_new = [  # prlimit64(pid, resource, new, old): `new`, an address of two words, must be zero
        *_argument(2),
        _line(_EQUAL, 0, 1, 0),
        *_end(REFUSE),
        *_argument(2, high=True),
        _line(_EQUAL, 0, 1, 0),
        *_end(REFUSE),
        *_end(ALLOW),
    ]
    return [
        (CLONE, threads),
        (OPEN, [*_argument(1), *unwritten]),
        (OPENAT, [*_argument(2), *unwritten]),
        (KILL_CALL, own),
        (TGKILL, own),
        (PRLIMIT, nothing_new),
        (SCHED_SETAFFINITY, _chosen(0, (0, pid), ALLOW, REFUSE)),
        (PRCTL, _chosen(0, (_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_PTRACER, _PR_SCHED_CORE), REFUSE, ALLOW)),
        (FCNTL, _chosen(1, FCNTLS, ALLOW, REFUSE)),
        (IOCTL, _chosen(1, IOCTLS, ALLOW, REFUSE)),
    ]


def _chosen(index: int, values: tuple[int, ...], answer: int, otherwise: int) -> list[bytes]:
    """`answer` where the low word of an argument, all that the kernel reads of it, is one of `values`."""
    body = _argument(index)
    for value in values:
        body += [_line(_EQUAL, value, 0, 1), *_end(answer)]
    return [*body, *_end(otherwise)]


def _on(number: int, body: list[bytes]) -> list[bytes]:
    """`body` for one system call; every path through it returns, so that the number is still loaded after it."""
    return [] if number < 0 else [_line(_EQUAL, number, 0, len(body)), *body]


def _argument(index: int, *, high: bool = False) -> list[bytes]:
    return [_line(_LOAD, _ARGUMENTS + 8 * index + (4 if high else 0))]  # little-endian: low word first


def _end(answer: int) -> list[bytes]:
    return [_line(_RETURN, answer)]


def _line(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, k)
