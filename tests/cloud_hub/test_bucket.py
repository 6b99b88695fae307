"""A hub whose objects lie in an S3 bucket: what it signs, publishes and keeps goes there and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from cloud_hub.config import HubConfig
from cloud_hub.errors import UnreachableError
from cloud_hub.objects import open_objects
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.samples import store
from fleet.protocol.messages import Sample
from fleet.protocol.tensors import to_array
from tests.support import bucket
from tests.support.hub import HubFixture, make_hub

URL = f"s3://{bucket.BUCKET}/hubs/one"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubFixture]:
    with bucket.serving() as said:
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        yield make_hub(tmp_path, objects=URL)


def keys() -> list[str]:
    """The keys in the bucket, as somebody else reads it."""
    from os import environ

    found = boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT"],
        region_name=bucket.REGION,
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    ).list_objects_v2(Bucket=bucket.BUCKET)
    return [item["Key"] for item in found["Contents"]]


def test_what_devices_fetch_comes_out_of_the_bucket(hub: HubFixture) -> None:
    hub.model("digits")
    number = hub.release("digits")
    found = keys()
    assert all(key.startswith("hubs/one/") for key in found)
    assert "hubs/one/tuf/metadata/timestamp.json" in found and any("/blobs/" in key for key in found)
    assert not (hub.hub.config.directory / "objects").exists()
    mirror = hub.auth(hub.token("mirror"))
    assert hub.client.get("/tuf/metadata/timestamp.json", headers=mirror).json()["signed"]["_type"] == "timestamp"
    blob = next(key for key in found if "/blobs/" in key).rpartition("/")[2]
    whole = hub.client.get(f"/blobs/{blob}", headers=mirror).content
    part = hub.client.get(f"/blobs/{blob}", headers={**mirror, "Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, whole[2:5])
    hub.hub.publisher.withdraw("digits", number, "labels swapped", actor="test")
    assert any(key.startswith("hubs/one/journal") for key in keys())  # of what was forbidden


def test_samples_lie_in_the_bucket_and_go_from_it(hub: HubFixture) -> None:
    hub.model("digits")
    hub.release("digits")
    array = to_array("x", np.arange(64, dtype=np.float32)[None])
    sample = Sample(
        id="s-1",
        model="digits",
        release=1,
        variant="v",
        at=hub.clock(),
        reason="random",
        confidence=0.5,
        inputs=(array,),
        outputs=(),
        prediction=1,
    )
    store.commit(hub.hub, "kiosk-0", [sample])
    row = store.get(hub.hub, "s-1")
    assert store.arrays(hub.hub, row).inputs == (array,) and f"hubs/one/{row.path}" in keys()
    store.delete(hub.hub, [row], actor="test")
    assert f"hubs/one/{row.path}" not in keys()


def test_a_hub_that_is_opened_again_goes_on_in_its_bucket(hub: HubFixture) -> None:
    hub.model("digits")
    hub.release("digits")
    config = HubConfig.build(hub.hub.config.directory, {"objects": URL})
    again = HubFixture(open_hub(config, clock=hub.clock), hub.clock, hub.offline, hub.admin_token)
    assert again.release("digits", seed=1) == 2
    assert sum("/tuf/targets/models/digits/" in key for key in keys()) >= 2


def test_a_bucket_that_is_not_there_is_said(hub: HubFixture) -> None:
    missing = open_objects("s3://missing/hub")
    for write in (missing.put, missing.put_new):
        with pytest.raises(UnreachableError, match="no place for a") as caught:
            write("a", b"1")
        assert "make the bucket" in caught.value.hint
