"""Both adapters of the port, what carries a trace on, and what is asked for by settings."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fleet.tracing import OFF, Tracer, open_tracer
from tests.support.traces import PARENT, SPAN, TRACE, Kept


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.mark.parametrize("kind", ["off", "otel"])
def test_any_tracer_takes_what_the_rooms_do_with_it(kind: str, kept: Kept) -> None:
    tracer: Tracer = OFF if kind == "off" else kept.tracer("s")
    with tracer.following({"traceparent": PARENT}):
        span = tracer.begin("infer", "server", 0.5)
        with span.inside():
            inner = tracer.begin("run")
            inner.put(model="m", release=3, confidence=0.5, degraded=False, variant=None)
            inner.fail("it broke")
            inner.end()
            assert bool(tracer.carried()) is tracer.on and tracer.has_span() is tracer.on
        span.end()
    assert not tracer.has_span() and tracer.carried() == {}
    tracer.close()
    assert bool(kept.spans) is tracer.on


def test_a_collector_that_is_away_holds_up_nobody_who_stops(kept: Kept) -> None:
    from opentelemetry.sdk.trace import SpanProcessor

    from fleet.tracing.otel import OtelTracer

    begun, back, sent = threading.Event(), threading.Event(), threading.Event()

    class Away(SpanProcessor):
        def shutdown(self) -> None:
            begun.set()
            assert back.wait(60)
            sent.set()

    OtelTracer("s", 1.0, {}, Away(), last_s=0.01).close()
    assert begun.wait(60) and not sent.is_set()
    back.set()
    assert sent.wait(60)


def test_a_trace_goes_on_from_the_callers_headers_and_is_handed_on(kept: Kept) -> None:
    tracer = kept.tracer("s", ratio=0.0)  # the caller's word counts
    with tracer.following({"traceparent": PARENT, "tracestate": "other=1"}):
        span = tracer.begin("infer", "server", 0.25)
        with span.inside():
            sent = tracer.carried()
        span.end()
    made = kept.one("s", "infer")
    assert (made.context.trace_id, made.parent.span_id) == (TRACE, SPAN)
    assert sent["traceparent"] == f"00-{TRACE:032x}-{made.context.span_id:016x}-01" and sent["tracestate"] == "other=1"
    assert made.end_time - made.start_time >= 250_000_000


@pytest.mark.parametrize(
    "header", [PARENT[:-1] + "0", "", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "é" * 99]
)
def test_what_is_not_sampled_or_no_trace_makes_no_span(kept: Kept, header: str) -> None:
    tracer = kept.tracer("s", ratio=0.0)
    with tracer.following({"traceparent": header}):
        tracer.begin("infer").end()
    assert kept.spans == {}


def test_a_collector_that_is_away_is_said_once_in_ten_minutes(
    kept: Kept, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from fleet.tracing import otel

    now, said = [0.0], []
    monkeypatch.setattr(otel, "RARELY", rarely := otel.RarelyAgain(lambda: now[0]))
    loggers = [logging.getLogger(name) for name in otel.LOGGERS]
    for logger in loggers:
        monkeypatch.setattr(logger, "filters", [])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/traces"
        otel.exporting("s", url, 1.0, {}).close()
        assert all(rarely in logger.filters for logger in loggers)
        away = OTLPSpanExporter(endpoint=url, timeout=0.01)
        for now[0] in (1.0, 2.0, otel.AGAIN_S, otel.AGAIN_S + 2.0):
            caplog.clear()
            away.export([])
            said.append(len(caplog.records))
    assert said[0] == said[3] > 0 and said[1:3] == [0, 0]


def test_settings_without_an_endpoint_or_with_a_wrong_one() -> None:
    assert open_tracer("s", "", 1.0, {}) is OFF
    for wrong in ("127.0.0.1:4318", "ftp://collector", "http://user:secret@collector/v1/traces"):
        with pytest.raises(ValueError, match="endpoint is no address") as refused:
            open_tracer("s", wrong, 1.0, {})
        assert "secret" not in str(refused.value)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fleet.tracing.otel", None)
    with pytest.raises(ValueError, match=r"edgeloop\[otel\]"):
        open_tracer("s", "http://127.0.0.1:4318/v1/traces", 1.0, {})


def test_who_wants_no_traces_loads_no_opentelemetry() -> None:
    code = (
        "import sys, edge_agent.agent, fleet.tracing; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_spans_come_to_a_collector_by_otlp() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason='pip install "edgeloop[otel]"')
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tracer = open_tracer(
        "edge-agent", f"http://127.0.0.1:{server.server_port}/v1/traces", 1.0, {"service.version": "9"}
    )
    span = tracer.begin("infer tiny", "server")
    span.put(model="tiny")
    span.end()
    tracer.close()
    server.shutdown()
    server.server_close()
    ((path, body),) = got
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert path == "/v1/traces" and resource.scope_spans[0].spans[0].name == "infer tiny"
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "edge-agent"
