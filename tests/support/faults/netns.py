"""A network that spoils packets below TCP: two network namespaces whose TUN devices one thread joins.

Linux's own emulator, netem, is a kernel module that many machines lack; this needs only /dev/net/tun. Each
end is a process of its own, `python -m tests.support.faults.netns SOCKET ROLE …`: it enters a namespace,
makes a TUN device there and hands its descriptor to the test, which reads every packet of one end and writes
it to the other: once, twice, late, damaged or not at all, by seeded draws.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

HUB, DEVICE = "10.97.0.1", "10.97.0.2"
PORT = 8080
ROOT = Path(__file__).resolve().parents[3]
_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x00020000, 0x1000, 0x4000, 0x40000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _IFF_UP = 0x8914, 0x8916, 0x891C, 0x1
HANGS_S = 240.0  # over four times what the slowest transfer takes
ADVICE = (
    "run it as root with /dev/net/tun (in a container: --device /dev/net/tun --cap-add NET_ADMIN,SYS_ADMIN), "
    "or permit user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
)
_MOST = 2048  # bytes of a packet; the devices' MTU is 1500
_TCP, _SYN = 6, 0x02
_FORBIDDEN = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOENT,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOSYS,
    errno.ENOSPC,
    errno.EUSERS,
}


class NotPermittedError(Exception):
    """This machine or container lets nobody make a network namespace or a TUN device; says what to do."""


def enter(address: str) -> int:
    """Move this process into a network namespace of its own with a TUN device at `address`/24; its descriptor.

    Raises:
        OSError: namespaces or /dev/net/tun are not there or not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:  # what root need not, anybody else must
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    name = b"tun0"
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s8x", name, sockaddr))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP))
    return tun


class Weather(Struct, frozen=True, kw_only=True):
    """The fate of packets. `loss`, `twice` and `flip` (of one bit) are probabilities; each copy is under way for
    `delay_s` and up to `jitter_s` more, by which one overtakes another."""

    loss: float = 0.0
    twice: float = 0.0
    flip: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


class Traffic(Struct):
    """One direction. Bytes are those that TCP carries: `stream` counts each once, `sent` each time that it was
    sent, `arrived` each time that it came out at the other end. `late` packets were overtaken."""

    packets: int = 0
    lost: int = 0
    twice: int = 0
    flipped: int = 0
    late: int = 0
    stream: int = 0
    sent: int = 0
    arrived: int = 0


class Packet(NamedTuple):
    """One that is under way, in order of `due`."""

    due: float
    number: int  # in order of arrival at the link
    to: int
    size: int
    data: bytes
    traffic: Traffic


class Link:
    """Passes packets between two TUN devices until it is closed; to each happens what `weather` says."""

    def __init__(self, hub: int, device: int, weather: Weather, seed: int) -> None:
        """Begin, with the descriptors of the TUN devices of both ends."""
        self._weather, self._rng = weather, random.Random(seed)
        self.down, self.up = Traffic(), Traffic()
        self._next: dict[tuple[bytes, bytes], int] = {}  # of each flow: the sequence number after the last new byte
        self._under_way: list[Packet] = []
        self._numbers = itertools.count(1)
        self._newest: dict[int, int] = {}  # of each way: the highest number that came out
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(hub, device), daemon=True)
        self._thread.start()

    def struck(self) -> bool:
        """Tell whether everything that the weather brings came, one way or the other."""
        weather, both = self._weather, (self.down, self.up)
        shares = {"lost": weather.loss, "twice": weather.twice, "flipped": weather.flip, "late": weather.jitter_s}
        return all(sum(getattr(way, word) for way in both) for word, share in shares.items() if share)

    def close(self) -> None:
        os.close(self._wake)
        self._thread.join(10)
        os.close(self._woken)

    def _run(self, hub: int, device: int) -> None:
        ways = {hub: (device, self.down), device: (hub, self.up)}
        while True:
            rest = max(0.0, self._under_way[0].due - time.monotonic()) if self._under_way else None
            ready, _, _ = select.select([*ways, self._woken], [], [], rest)
            if self._woken in ready:
                return
            for descriptor in ready:
                to, traffic = ways[descriptor]
                self._take(os.read(descriptor, _MOST), to, traffic)
            while self._under_way and self._under_way[0].due <= time.monotonic():
                self._give(heapq.heappop(self._under_way))

    def _take(self, data: bytes, to: int, traffic: Traffic) -> None:
        if data[0] >> 4 != 4 or data[9] != _TCP:
            return  # the kernel's own IPv6 chatter
        weather, draw = self._weather, self._rng.random
        size = self._count(data, traffic)
        if draw() < weather.loss:
            traffic.lost += 1
            return
        again = draw() < weather.twice
        traffic.twice += again
        for _ in range(1 + again):
            due = time.monotonic() + weather.delay_s + weather.jitter_s * draw()
            spoiled = self._flipped(data, traffic) if draw() < weather.flip else data
            heapq.heappush(self._under_way, Packet(due, next(self._numbers), to, size, spoiled, traffic))

    def _flipped(self, data: bytes, traffic: Traffic) -> bytes:
        """One bit behind IP's header is another: TCP's checksum must see it."""
        traffic.flipped += 1
        spoiled = bytearray(data)
        spoiled[self._rng.randrange((data[0] & 15) * 4, len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(spoiled)

    def _give(self, packet: Packet) -> None:
        traffic = packet.traffic
        traffic.arrived += packet.size
        traffic.late += packet.number < self._newest.get(packet.to, 0)
        self._newest[packet.to] = max(packet.number, self._newest.get(packet.to, 0))
        with contextlib.suppress(OSError):  # the other end is gone
            os.write(packet.to, packet.data)

    def _count(self, packet: bytes, traffic: Traffic) -> int:
        """The bytes that a segment carries."""
        header = (packet[0] & 15) * 4
        seq, flags = struct.unpack_from("!I", packet, header + 4)[0], packet[header + 13]
        size = int.from_bytes(packet[2:4], "big") - header - (packet[header + 12] >> 4) * 4
        flow = (packet[12:20], packet[header : header + 4])
        if flags & _SYN:
            self._next[flow] = (seq + 1) & 0xFFFFFFFF
        ahead = (seq + size - self._next.get(flow, seq)) & 0xFFFFFFFF
        if size and ahead < 1 << 31:  # else it was sent before
            traffic.stream += ahead
            self._next[flow] = (seq + size) & 0xFFFFFFFF
        traffic.packets += 1
        traffic.sent += size
        return size


class End:
    """A process at one end of a link, and the descriptor of its TUN device.

    Raises:
        NotPermittedError: this machine does not let it.
    """

    def __init__(self, address: str, role: str, *arguments: str) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.faults.netns", str(theirs.fileno()), address, role, *arguments],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            theirs.close()
            said, descriptors, _, _ = socket.recv_fds(ours, 4096, 1)
        self.tun = descriptors[0] if descriptors else -1
        if said != b"tun":
            self.close()
            assert said, f"the process of the {role} died"
            raise NotPermittedError(f"{said.decode()}; {ADVICE}")

    def say(self, request: Any) -> Any:
        """Ask the process, and hear its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return self.heard()

    def heard(self) -> Any:
        """The next line that the process says, as JSON; None when it died, or was killed because it hangs."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(HANGS_S, self._process.kill)
        watchdog.start()
        try:
            return json.loads(self._process.stdout.readline() or b"null")
        finally:
            watchdog.cancel()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        if self.tun >= 0:
            os.close(self.tun)


@contextlib.contextmanager
def joined(
    weather: Weather, seed: int, hub: tuple[str, ...], device: tuple[str, ...]
) -> Iterator[tuple[Link, End, End]]:
    """A hub and a device, each a role and its arguments, with a link between them that spoils packets both ways.

    Raises:
        NotPermittedError: this machine does not let it.
    """
    if sys.platform != "linux":
        raise NotPermittedError("network namespaces are Linux's; run it there")
    with (
        contextlib.closing(End(HUB, *hub)) as at_hub,
        contextlib.closing(End(DEVICE, *device)) as at_device,
        contextlib.closing(Link(at_hub.tun, at_device.tun, weather, seed)) as link,
    ):
        yield link, at_hub, at_device


def serve(directory: str, control: str) -> None:
    """The hub: the blobs of a folder, by the TCP congestion control of that name, until stdin ends."""
    from tests.support.faults.static_hub import StaticHub, serving

    static = StaticHub()
    static.stages["one"] = {f"blobs/{path.name}": path.read_bytes() for path in Path(directory).iterdir()}
    with serving(static, address=(HUB, PORT), congestion=control):
        print(json.dumps("ready"), flush=True)
        sys.stdin.read()


def fetch(directory: str, sha256: str, size: str, gap_timeout_s: str) -> None:
    """The device: the product's own fetch, again and again until the blob is here; says what came and what broke."""
    from edge_agent.errors import FetchError, UnreachableError
    from edge_agent.update.disk.store import Store
    from edge_agent.update.download.fetch import fetch_blob
    from edge_agent.update.download.sources import HttpMirror
    from edge_agent.update.download.throttle import DownloadPace
    from fleet.protocol.manifest import Blob

    blob, store = Blob(sha256=sha256, size=int(size)), Store(Path(directory), reserve=0)
    source = HttpMirror(f"http://{HUB}:{PORT}/one")
    received: list[int] = []
    broken: list[str] = []
    while not store.has(blob):
        try:
            fetch_blob(
                source, store, blob, pace=DownloadPace(), progress=received.append, gap_timeout_s=float(gap_timeout_s)
            )
            store.accept(blob)
        except (FetchError, UnreachableError) as error:
            broken.append(str(error))
    print(json.dumps({"received": sum(received), "broken": broken}), flush=True)


def shell(directory: str, hosts: str) -> None:
    """A machine with a network, a loopback and an /etc/hosts of its own, where commands run in `directory`.

    `{"run": COMMAND}` on stdin is answered by `{"code", "out", "err"}`, `{"start": COMMAND, "log": FILE}` by its
    process id; what was started is ended with stdin.
    """
    _own_machine(Path(hosts))
    started: list[subprocess.Popen[bytes]] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            done = subprocess.run(
                ["bash", "-c", request["run"]],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=HANGS_S,
                check=False,
            )
            answer: Any = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
        else:
            with Path(request["log"]).open("wb") as log:
                words = ["bash", "-c", f"exec {request['start']}"]
                started.append(subprocess.Popen(words, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            answer = started[-1].pid
        print(json.dumps(answer), flush=True)
    for process in started:
        process.terminate()
    for process in started:
        process.wait(30)


def _own_machine(hosts: Path) -> None:
    """Loopback up, and `hosts` for /etc/hosts, in this process and its children."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))
    libc = ctypes.CDLL(None, use_errno=True)
    for done in (
        libc.unshare(_CLONE_NEWNS),
        libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None),
        libc.mount(os.fsencode(hosts), b"/etc/hosts", None, _MS_BIND, None),
    ):
        if done != 0:
            raise OSError(ctypes.get_errno(), "a mount namespace with its own /etc/hosts")


ROLES: dict[str, Callable[..., None]] = {"hub": serve, "device": fetch, "shell": shell}


def main() -> None:
    """`SOCKET ADDRESS ROLE …`: tell the test the TUN device or why there is none, then be the hub or the device."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with socket.socket(fileno=int(sys.argv[1])) as test:
        try:
            tun = enter(sys.argv[2])
        except OSError as error:
            if error.errno not in _FORBIDDEN:
                raise
            test.sendall(f"no network namespace with a TUN device: {error}".encode())
            return
        socket.send_fds(test, [b"tun"], [tun])
    os.close(tun)
    ROLES[sys.argv[3]](*sys.argv[4:])


if __name__ == "__main__":
    main()
