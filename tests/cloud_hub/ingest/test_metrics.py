"""The hub's `/metrics` counts what devices send."""

from __future__ import annotations

from cloud_hub.ingest.service import MESSAGES


def test_messages_are_counted_by_kind_where_prometheus_looks(hub):
    MESSAGES.labels("window").inc(3)
    text = hub.client.get("/metrics", headers=hub.auth()).text
    assert 'edgeloop_hub_messages_total{kind="window"}' in text
    assert "edgeloop_hub_devices" in text
