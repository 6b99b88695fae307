"""The measures that keep the serving process small."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.host import memory

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are glibc's own calls")
ROOT = Path(__file__).parents[3]

HEAPS = """
import ctypes, threading
from edge_agent.host import memory
if {bound}: memory.bound()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)
def fill():
    together.wait()
    for _ in range(2000): libc.malloc(4096)
    together.wait()
threads = [threading.Thread(target=fill) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out); libc.fclose(out)
"""

TRIM = """
from edge_agent.host import memory
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
pieces = [bytes(4000) for _ in range(8000)]
last = bytes(4000)  # above the others, so that the heap does not shrink by itself
del pieces
before = resident()
memory.give_back()
print(before - resident())
"""


FREEZE = """
import gc, weakref
class Node: pass
def knot():
    node = Node()
    node.itself = node
    return weakref.ref(node)
gc.disable()
import json, asyncio
from edge_agent.host import memory
early = knot()
kept = Node()
kept.itself = kept
last = weakref.ref(kept)
memory.freeze()
late, visited = knot(), len(gc.get_objects())
memory.give_back()
del kept
gc.collect()
print(early() is None, late() is None, last() is not None, visited)
"""


def said(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    return done.stdout


@glibc
def test_all_threads_share_one_arena() -> None:
    assert said(HEAPS.format(bound=False)).count("<heap nr=") > 1  # the check sees arenas
    assert said(HEAPS.format(bound=True)).count("<heap nr=") == 1


@glibc
def test_freed_pages_go_back_to_the_system() -> None:
    assert int(said(TRIM)) > 16 << 20  # of 32 MB


def test_what_refers_to_itself_goes_at_once_and_what_the_process_is_made_of_is_not_visited() -> None:
    early, late, frozen, visited = said(FREEZE).split()
    assert (early, late) == ("True", "True")
    assert frozen == "True" and int(visited) < 1000  # modules and classes would be tens of thousands


def test_what_requests_held_is_given_back_once_for_a_peak_and_not_too_often() -> None:
    held = memory.HeldBytes()
    looks = [
        (memory.WORTH - 1, 0.0, False),
        (0, 0.1, False),  # too little
        (memory.WORTH, 0.2, False),
        (1, 0.3, False),  # not all of it is freed
        (0, 0.4, True),
        (0, 0.5, False),  # nothing since
        (memory.WORTH, 0.6, False),
        (0, 0.7, False),  # too soon
        (0, 0.4 + memory.REST_S, True),  # and not forgotten
        (0, 1e6, False),
    ]
    assert [held.worth_giving_back(count, now) for count, now, _ in looks] == [due for _, _, due in looks]
