"""One handler that turns every error into `{"error", "code", "subject", "hint"}` and its status."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from cloud_hub.api.bodies import in_words
from cloud_hub.errors import HubError
from fleet.protocol.errors import ProtocolError, TooLargeError

log = logging.getLogger(__name__)
RETRY_AFTER_S = "1"
_CODES = {401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}


def error_response(
    request: Request, status: int, message: str, *, code: str, subject: str = "", hint: str = ""
) -> JSONResponse:
    """The body of an error; inference paths (`/v2`) have the form of their own protocol."""
    if request.url.path.startswith("/v2"):
        body = {"error": message}
    else:
        body = {"error": message, "code": code, "subject": subject, "hint": hint}
    body = {key: text.encode("utf-8", "replace").decode() for key, text in body.items()}  # a caller's half a character
    return JSONResponse(body, status, headers={"Retry-After": RETRY_AFTER_S} if status in (429, 503) else None)


def install_error_handlers(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(HubError, _hub_error)
    app.add_exception_handler(ProtocolError, _protocol_error)
    app.add_exception_handler(DataError, _data_error)
    app.add_exception_handler(IntegrityError, _integrity_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


async def _hub_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HubError)
    response = error_response(
        request, error.status, str(error), code=error.code, subject=error.subject, hint=error.hint
    )
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _protocol_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProtocolError)
    large = isinstance(error, TooLargeError)
    status, code = (413, "too-large") if large else (400, "invalid")
    return error_response(request, status, str(error), code=code, subject=error.subject, hint=error.hint)


async def _data_error(request: Request, error: Exception) -> JSONResponse:
    log.info("%s %s: %s", request.method, request.url.path, error)
    hint = "give numbers within 64 bits, and text without NUL"
    return error_response(request, 400, "a value is out of range", code="invalid", hint=hint)


async def _integrity_error(request: Request, error: Exception) -> JSONResponse:
    log.info("%s %s: %s", request.method, request.url.path, error)
    return error_response(request, 409, "somebody else made the same at this moment", code="conflict", hint="try again")


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: the database does not answer", request.method, request.url.path, exc_info=error)
    return error_response(request, 503, "the database does not answer", code="unreachable", hint="try again later")


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    where, what, hint = in_words(error.errors()[0])
    return error_response(request, 400, f"{where}: {what}", code="invalid", subject=where, hint=hint)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid")
    return error_response(request, error.status_code, str(error.detail), code=code, subject=request.url.path)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(request, 500, "internal error; the hub's log has the reason", code="internal")
