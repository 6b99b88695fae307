"""`/metrics` counts requests in process beside those that came to the agent."""

from __future__ import annotations

import asyncio
from pathlib import Path

from msgspec.structs import replace

from edge_agent.in_process.records import LocalRecord
from tests.support import models
from tests.support.agent import Agent


def test_requests_in_process_are_counted_as_their_refusals_are(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    said = LocalRecord(model="tiny", release=1, variant="onnx-fp32", latency_s=0.1)
    for record in (said, said, replace(said, failed=True), replace(said, refused="value"), replace(said, release=9)):
        agent.recorder.local(record)
    lines = agent.metrics.render().decode().splitlines()
    for by, count in (("edge", 2), ("nobody", 2)):
        assert f'edge_inference_requests_total{{model="tiny",served_by="{by}",degraded="false"}} {count}' in lines
        assert f'edge_inference_duration_seconds_count{{model="tiny",served_by="{by}"}} {count}' in lines
    assert 'edge_refused_requests_total{model="tiny",reason="value"} 1' in lines
