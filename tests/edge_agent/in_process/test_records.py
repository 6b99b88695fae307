"""In-process requests tell the agent in batches, and nothing of it is in a request's way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import msgspec
import numpy as np
import pytest

from edge_agent.in_process import records as subject
from edge_agent.in_process.draws import Draws
from edge_agent.in_process.records import BATCH, SOCKET, WAITING, Entry, LocalRecord, Outbox
from edge_agent.local import LOOK_S, LocalModel, open_model
from edge_agent.serving.scores import PendingScores, Scores, score, score_all, score_later
from edge_agent.telemetry.local_records import records
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import MalformedError, ProtocolError, RefusalError
from tests.edge_agent.test_local import X, install
from tests.support import models


@pytest.fixture
def heard(tmp_path):
    """The agent's socket; `heard()` gives the records of one datagram."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / SOCKET))
    listener.settimeout(20)
    yield lambda: list(records(listener.recv(1 << 20)))
    listener.close()


@pytest.fixture
def quiet(monkeypatch):
    """No thread: the test flushes."""
    monkeypatch.setattr(Outbox, "_rouse", lambda self: None)


def entry(release, **more):
    return Entry(release, 0.001, PendingScores(release, None, Scores((0.5,), (1,))), **more)


def test_many_requests_are_one_datagram(tmp_path, heard, quiet):
    install(tmp_path, 1)
    with open_model(tmp_path, "tiny") as model:
        answers = [model.infer({"input": x[None]}) for x in models.inputs(20)]
        model._outbox.flush()
    found = heard()
    assert [record.classes for record in found] == [answer.classes for answer in answers]
    assert [record.confidence for record in found] == [pytest.approx(answer.confidence) for answer in answers]
    assert {(record.model, record.release, record.failed, record.refused) for record in found} == {
        ("tiny", 1, False, "")
    }


def test_the_thread_tells_without_being_asked(tmp_path, heard):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")
    for _ in range(2):  # asleep, and then awake
        model.infer({"input": X})
        assert [record.classes for record in heard()] == [(0,)]
    model.close()


def test_a_refusal_is_told_at_once_and_a_list_is_no_failure_of_the_release(tmp_path, heard, monkeypatch):
    monkeypatch.setattr(subject, "FLUSH_S", 3600.0)
    install(tmp_path, 1)
    with open_model(tmp_path, "tiny") as model:
        for _ in range(2):
            with pytest.raises(RefusalError):
                model.infer({"x": X})
            assert [(record.refused, record.detail) for record in heard()] == [("name", "input 'input' is missing")]
        with pytest.raises(RefusalError):
            model.infer({"input": [[1.0, 2.0, 3.0, 4.0]]})
        assert [(record.refused, record.failed) for record in heard()] == [("datatype", False)]
        assert not model._outbox._entries


def test_a_process_that_ends_tells_what_it_did(tmp_path, heard):
    install(tmp_path, 1)
    script = (
        "import sys, numpy as np; from pathlib import Path; from edge_agent import local;"
        "from edge_agent.in_process import records;"
        "records.FLUSH_S = 3600; m = local.open_model(Path(sys.argv[1]), 'tiny');"
        "[m.infer({'input': np.ones((1, 4), np.float32)}) for _ in range(5)]"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    count = 0
    while count < 5:  # the first one may have gone alone
        count += len(heard())
    assert count == 5


def test_a_model_that_nobody_holds_leaves_no_thread(tmp_path):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")
    model.infer({"input": X})
    thread = model._outbox._thread
    del model
    thread.join(20)
    assert not thread.is_alive()


def test_without_an_agent_nothing_waits(tmp_path, quiet):
    install(tmp_path, 1)
    with open_model(tmp_path, "tiny") as model:
        model.infer({"input": X})
        model._outbox.flush()
        assert (len(model._outbox._entries), model._outbox.lost) == (0, 0)


def test_what_a_busy_agent_does_not_take_waits_in_order_and_within_bounds(tmp_path, heard, quiet):
    release = models.release(tmp_path / "blobs")
    box = Outbox(tmp_path, Draws(tmp_path))
    count = 0
    while not box._entries:  # until the socket is full
        box.put(entry(release))
        box.flush()
        count += 1
    before = len(box._entries)
    for number in range(WAITING):
        box.put(Entry(release, float(number), failed=True))
    assert (len(box._entries), box.lost) == (WAITING, before)
    seen = [record for _ in range(count - 1) for record in heard()]
    box.flush()
    seen += heard()
    assert len(seen) == count - 1 + BATCH
    assert [record.latency_s for record in seen[count:]] == [float(number) for number in range(BATCH - 1)]
    box.close()


def test_a_batch_that_is_too_large_is_cut_and_a_record_that_is_too_large_loses_its_scores(tmp_path, heard, quiet):
    release = models.release(tmp_path / "blobs")
    box = Outbox(tmp_path, Draws(tmp_path))
    for rows in (1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 20_000):
        box.put(Entry(release, 0.0, PendingScores(release, None, Scores((0.123,) * rows, (1,) * rows))))
    box.flush()
    found: list[LocalRecord] = []
    while len(found) < 9:
        found += heard()
    assert [len(record.classes) for record in found] == [1000] * 8 + [0]
    box.close()


def test_a_swap_is_followed_at_the_next_look_and_release_looks_now(tmp_path, quiet):
    install(tmp_path, 1)
    clock = [100.0]
    with LocalModel(tmp_path, "tiny", now=lambda: clock[0]) as model:
        assert model.infer({"input": X}).release == 1
        install(tmp_path, 2)
        clock[0] += LOOK_S * 0.9
        assert model.infer({"input": X}).release == 1
        clock[0] += LOOK_S * 0.2
        assert model.infer({"input": X}).release == 2
        install(tmp_path, 3)
        assert model.release == 3
        assert model.infer({"input": X}).release == 3


def test_between_two_looks_a_request_asks_the_system_nothing(tmp_path, quiet):
    install(tmp_path, 1)
    with LocalModel(tmp_path, "tiny", now=lambda: 0.0) as model:
        model.infer({"input": X})
        asked = []
        watching = threading.get_ident()
        sys.addaudithook(lambda event, _: threading.get_ident() == watching and asked.append(event))
        model.infer({"input": X})
        watching = 0
    assert [event for event in asked if event.split(".")[0] in ("open", "os", "socket")] == []


@pytest.mark.parametrize("data", [models.onnx_bytes(), models.litert_bytes()])
def test_a_forked_child_goes_on_and_tells_of_its_own_requests_only(tmp_path, heard, data, quiet):
    runtime = "onnx" if data == models.onnx_bytes() else "litert"
    install(tmp_path, 1, data=data, runtime=runtime)
    model = open_model(tmp_path, "tiny")
    model.infer({"input": X})
    child = os.fork()
    if not child:
        status = 1
        try:
            answers = [model.infer({"input": -X}).classes for _ in range(3)]
            model._outbox.flush()
            status = 0 if answers == [(2,)] * 3 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [record.classes for record in heard()] == [(2,)] * 3
    model._outbox.flush()
    assert [record.classes for record in heard()] == [(0,)]
    model.close()


def test_a_fork_waits_for_the_request_under_way(tmp_path, quiet, monkeypatch):
    install(tmp_path, 1)
    model = open_model(tmp_path, "tiny")
    running, go_on = threading.Event(), threading.Event()
    run = model._loaded[1].run

    def slow(inputs):
        running.set()
        assert go_on.wait(60)
        return run(inputs)

    monkeypatch.setattr(model._loaded[1], "run", slow)
    other = threading.Thread(target=lambda: model.infer({"input": X}))
    other.start()
    assert running.wait(60)
    monkeypatch.setattr(model._loaded[1], "run", run)
    threading.Timer(0.05, go_on.set).start()
    child = os.fork()
    if not child:
        os._exit(0 if go_on.is_set() and model.infer({"input": X}).classes == (0,) else 1)
    assert os.waitpid(child, 0)[1] == 0
    other.join(20)
    model.close()


def test_several_threads_lose_nothing(tmp_path, heard):
    install(tmp_path, 1)
    with open_model(tmp_path, "tiny") as model:
        threads = [threading.Thread(target=lambda: [model.infer({"input": X}) for _ in range(200)]) for _ in range(4)]
        count = 0
        for thread in threads:
            thread.start()
        while count < 800:
            count += len(heard())
        for thread in threads:
            thread.join()
        assert (count, model._outbox.lost) == (800, 0)


def test_one_bad_record_does_not_take_its_batch_along():
    good = LocalRecord(model="tiny", release=1, variant="v", latency_s=0.1)
    batch = encode_msgpack([good, {"model": 7}, good])
    assert list(records(batch)) == [good, good]
    assert list(records(encode_msgpack(good))) == [good]  # as 0.1 sent them
    assert len(list(records(encode_msgpack([good] * (BATCH + 5))))) == BATCH
    for rubbish in (b"", b"\xc1", b"\xdd\xff\xff\xff\xff", bytes(70_000)):
        try:
            assert list(records(rubbish)) == []
        except ProtocolError as error:
            assert isinstance(error, MalformedError)


def test_later_and_together_scores_are_the_same(tmp_path):
    release = models.release(tmp_path / "blobs", threshold=0.5)
    tables = [models.answer(models.inputs(rows, rows)) for rows in (1, 3, 1, 200, 600)]
    now = [score(release, {"logits": table}) for table in tables]
    pending = [score_later(release, {"logits": table}) for table in tables]
    for table in tables:
        table[...] = 0  # the caller's own, to do with as it likes
    assert pending[1].get() == now[1]
    score_all(pending)
    assert [one.get().classes for one in pending] == [scores.classes for scores in now]
    for one, scores in zip(pending, now, strict=True):
        np.testing.assert_allclose(one.get().confidence, scores.confidence, rtol=1e-12)


def test_what_no_classifier_answers_is_said_at_once(tmp_path):
    release = models.release(tmp_path / "blobs")
    for wrong in (np.zeros((1, 0), np.float32), np.zeros((1, 2, 3), np.float32)):
        with pytest.raises(MalformedError):
            score_later(release, {"logits": wrong})
    assert msgspec.msgpack.encode(Entry(release, 0.1, score_later(release, {"logits": models.answer(X)})).record())
