"""A careful FastAPI endpoint: an `async def` without a thread, the raw body, orjson, no pydantic model, a Response."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from work import Work

app = FastAPI(openapi_url=None)
work = Work()


@app.post("/v2/models/model/infer")
async def infer(request: Request) -> Response:
    """One request."""
    body, head = work.answer(await request.body(), int(request.headers["inference-header-content-length"]))
    headers = {"inference-header-content-length": str(head)}
    return Response(body, media_type="application/octet-stream", headers=headers)
