"""Threads that meet a message type for the first time together do not end the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEETING = """
import sys, threading, types
import msgspec
from fleet.protocol.codec import decode_json, decode_msgpack, from_document
from fleet.protocol.described import describe_all

sys.setswitchinterval(1e-6)
source = "from __future__ import annotations\\nimport msgspec\\n" + "".join(
    f"class C{i}(msgspec.Struct):\\n    a: int = 0\\n    b: tuple[float, ...] = ()\\n    c: dict[str, int] = {{}}\\n"
    f"    d: C{i + 1} | None = None\\n" for i in range(30)
) + "class C30(msgspec.Struct):\\n    a: int = 0\\n"
document = {"a": 1, "b": [1.5], "c": {"x": 1}, "d": {"a": 2, "d": {"a": 3}}}
json, packed = msgspec.json.encode(document), msgspec.msgpack.encode(document)
for number in range(30):
    module = types.ModuleType(f"made{number}")
    sys.modules[module.__name__] = module
    exec(compile(source, module.__name__, "exec"), module.__dict__)
    together, kind, found = threading.Barrier(3), module.C0, []
    PREPARE
    def decode(how):
        together.wait()
        found.append(how())
    threads = [threading.Thread(target=decode, args=(how,)) for how in (WAYS,)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.d.d.a for one in found] == [3, 3, 3]
"""
CODEC = """lambda: decode_json(json, kind, limit=1000), lambda: decode_msgpack(packed, kind, limit=1000),
    lambda: from_document(document, kind)"""
BARE = "*[lambda: msgspec.convert(document, kind)] * 3"


@pytest.mark.parametrize(("prepare", "ways"), [("", CODEC), ("describe_all()", BARE)])
def test_types_are_described_by_one_thread(prepare: str, ways: str) -> None:
    code = MEETING.replace("PREPARE", prepare).replace("WAYS", ways)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
