"""Ports to listen on: taken early, and one that is taken already is said with who has it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cloud_hub.addresses import Endpoint
from cloud_hub.errors import ConflictError, ForbiddenError, HubError, InvalidError

_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # of several addresses of a name, this machine may lack one
_LISTENS = "0A"  # a state in /proc/net/tcp


def listen_at(endpoint: Endpoint, what: str, setting: str) -> list[socket.socket]:
    """Sockets that listen on every address of `endpoint`.

    Args:
        endpoint: where; an empty host is every address of this machine.
        what: what wants to listen, for people: `HTTP`, `the broker`.
        setting: how to choose another port.

    Raises:
        ConflictError: the port is taken. ForbiddenError: this user may not listen there. InvalidError: the host is
            no address of this machine.
    """
    found: list[socket.socket] = []
    try:
        for family, address in _places(endpoint):
            try:
                found.append(_listener(family, address))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError as error:
        for one in found:
            one.close()
        raise _refused(error, endpoint, what, setting) from error
    return found


def check_free(endpoint: Endpoint, what: str, setting: str) -> None:
    """Raise like `listen_at` when something else could not listen there now."""
    for one in listen_at(endpoint, what, setting):
        one.close()


def _places(endpoint: Endpoint) -> list[tuple[int, tuple[object, ...]]]:
    found = socket.getaddrinfo(endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listener(family: int, address: tuple[object, ...]) -> socket.socket:
    # With its protocol named, asyncio turns Nagle's algorithm off on every connection that it accepts.
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(2048)  # at once: two sockets may be bound to one port as long as neither listens
    except OSError:
        one.close()
        raise
    return one


def _refused(error: OSError, endpoint: Endpoint, what: str, setting: str) -> HubError:
    if error.errno == errno.EADDRINUSE:
        return ConflictError(
            f"port {endpoint.port} ({endpoint}), which {what} wants, is taken{_holder(endpoint.port)}",
            subject=str(endpoint),
            hint=f"end that process, or choose another port: {setting}",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        why = f"this user may not listen on port {endpoint.port}, which {what} wants"
        return ForbiddenError(why, subject=str(endpoint), hint=f"choose a port above 1023: {setting}")
    why = f"{what} cannot listen on {endpoint}: {error.strerror or error}"
    return InvalidError(why, subject=str(endpoint), hint="give an address of this machine, or 0.0.0.0 for all of them")


def _holder(port: int) -> str:
    """Return the process that listens on a TCP port, in words, as far as the kernel shows it to this user."""
    inodes = set(_listening(port))
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or another user's
            for entry in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()) in inodes:
                        pid = int(process.name)
                        name = (process / "comm").read_text().strip()
                        return " by this very hub" if pid == os.getpid() else f" by process {pid} ({name})"
    return ""


def _listening(port: int) -> Iterator[str]:
    """The sockets that listen on a port, as /proc names them."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:  # no Linux
            continue
        for line in lines:
            words = line.split()
            if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{words[9]}]"
