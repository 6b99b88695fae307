"""An S3 bucket on loopback: moto's server, which keeps it in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import urllib3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET, REGION = "edgeloop", "eu-central-1"


class OneByOne:
    """A WSGI application that answers one request at a time: S3 compares and writes in one step, moto in two."""

    def __init__(self, application: Any) -> None:
        self._application, self._lock = application, threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        with self._lock:
            return list(self._application(environ, start))


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """The `AWS_…` variables that lead to a server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    application = OneByOne(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    said = {
        "AWS_ENDPOINT": f"http://127.0.0.1:{server.port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
    }
    urllib3.request("POST", f"{said['AWS_ENDPOINT']}/moto-api/reset")  # what an earlier server had lies in the process
    client = boto3.client(
        "s3",
        endpoint_url=said["AWS_ENDPOINT"],
        region_name=REGION,
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    try:
        yield said
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
