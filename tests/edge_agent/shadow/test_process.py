"""A real process around a real model: it compares, is confined, and takes nobody with it when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import ShadowError
from edge_agent.shadow.child import Answered
from edge_agent.shadow.copies import Copy
from edge_agent.shadow.process import ChildProcesses
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.pairing import input_keys
from fleet.protocol.shadow import keyed_apart
from tests.support.models import answer, inputs, onnx_bytes, release
from tests.support.shadows import ordered

X = inputs(3, seed=4)
COPY = Copy("tiny", "onnx-fp32", ordered().rollout, {"input": X}, {"logits": answer(X)})


@pytest.fixture
def held(tmp_path: Path) -> HeldRelease:
    """A release that takes the first class for the second, in the store of the agent in `tmp_path`."""
    store = Store(tmp_path)
    made = release(store.blobs, data=onnx_bytes(swap=True))
    return HeldRelease(
        release=2, variant=made.variant.name, manifest=store.put_manifest(encode_manifest(made.manifest))
    )


def test_it_compares_and_its_end_is_only_its_own(tmp_path: Path, held: HeldRelease) -> None:
    async def scenario() -> tuple[Answered, float]:
        process, cpu_s = await ChildProcesses(tmp_path).start(held)
        said = await process.ask(COPY)
        pid = process._process.pid
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(ShadowError, match="code -9") as ended:
            await process.ask(COPY)
        assert ended.value.reason == "killed"
        await process.close()
        return said, cpu_s

    said, loading_s = asyncio.run(scenario())
    right, swapped = answer(X).argmax(1), answer(X)[:, [1, 0, 2]].argmax(1)
    assert said.agree == tuple((right == swapped).tolist()) and not said.failed
    assert said.keys == input_keys(keyed_apart(ordered().rollout), {"input": X}, 3, {"input"})
    assert said.keys != input_keys(ordered().rollout, {"input": X}, 3, {"input"})  # those of audited pairs
    assert said.cpu_s >= loading_s > 0.0


def test_it_can_be_ended_while_somebody_waits_for_its_answer(tmp_path: Path, held: HeldRelease) -> None:
    async def scenario() -> None:
        process, _ = await ChildProcesses(tmp_path).start(held)
        os.kill(process._process.pid, signal.SIGSTOP)  # it never answers
        waiting = asyncio.create_task(process.ask(COPY))
        for _ in range(10):
            await asyncio.sleep(0)
        await process.close()
        with pytest.raises(ShadowError, match="ended"):
            await waiting

    asyncio.run(scenario())


def test_a_release_that_cannot_be_loaded_is_said_in_words(tmp_path: Path, held: HeldRelease) -> None:
    store = Store(tmp_path)
    blob = store.manifest(held.manifest).variant(held.variant).blob
    (store.blobs / blob.sha256).write_bytes(bytes(blob.size))
    with pytest.raises(ShadowError, match="cannot be loaded: CorruptBlobError"):
        asyncio.run(ChildProcesses(tmp_path).start(held))


def test_one_that_never_answers_is_given_up(tmp_path: Path, held: HeldRelease) -> None:
    (tmp_path / "agent.toml").write_text("selftest_wall_s = 0.01\n")  # nothing answers as fast
    with pytest.raises(ShadowError, match=r"had not answered after 0\.01 s") as given_up:
        asyncio.run(ChildProcesses(tmp_path).start(held))
    assert given_up.value.reason == "too-slow"


def test_the_array_that_comes_back_is_of_every_kind(tmp_path: Path) -> None:
    """Texts and numbers of any width pass the pipe."""
    from edge_agent.shadow.child import ShadowRequest, framed
    from fleet.protocol.codec import decode_msgpack
    from fleet.protocol.tensors import from_array, to_array

    arrays = (np.array([[b"a", b"long text"]], object), np.arange(4, dtype=np.int64), np.ones((2, 2), np.float16))
    frame = framed(
        ShadowRequest(
            rollout=ordered().rollout, inputs=tuple(to_array(f"x{n}", a) for n, a in enumerate(arrays)), outputs=()
        )
    )
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    back = decode_msgpack(frame[4:], ShadowRequest, limit=1 << 20)
    assert all((from_array(one) == other).all() for one, other in zip(back.inputs, arrays, strict=True))
