"""One handler that turns every error into `{"error", "code", "subject", "hint"}` and its status."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from cloud_hub.api.bodies import invalid_field
from cloud_hub.errors import HubError, error_code
from fleet.protocol.errors import ProtocolError
from fleet.protocol.refusals import LATER, STATUS, Code, code_of

log = logging.getLogger(__name__)
RETRY_AFTER_S = "1"


def error_response(path: str, code: Code, message: str, *, subject: str = "", hint: str = "") -> JSONResponse:
    """The answer that an error is; on inference paths (`/v2`) its body has the form of their own protocol.

    Args:
        path: of the request.
        code: what kind of refusal it is; its status is the table's.
        message: what went wrong, for people.
        subject: what it is about.
        hint: what to do.
    """
    body = {"error": message, "code": code, "subject": subject, "hint": hint}
    if path.startswith("/v2"):
        body = {"error": f"{message}; {hint}" if hint else message, "code": code}
    body = {key: text.encode("utf-8", "replace").decode() for key, text in body.items()}  # a caller's half a character
    status = STATUS[code]
    return JSONResponse(body, status, headers={"Retry-After": RETRY_AFTER_S} if status in LATER else None)


def install_error_handlers(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(HubError, _hub_error)
    app.add_exception_handler(ProtocolError, _protocol_error)
    app.add_exception_handler(DataError, _data_error)
    app.add_exception_handler(IntegrityError, _integrity_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)


async def _hub_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HubError)
    response = error_response(request.url.path, error.code, str(error), subject=error.subject, hint=error.hint)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _protocol_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProtocolError)
    return error_response(request.url.path, error_code(error), str(error), subject=error.subject, hint=error.hint)


async def _data_error(request: Request, error: Exception) -> JSONResponse:
    log.info("%s %s: %s", request.method, request.url.path, error)
    hint = "give numbers within 64 bits, and text without NUL"
    return error_response(request.url.path, "invalid", "a value is out of range", hint=hint)


async def _integrity_error(request: Request, error: Exception) -> JSONResponse:
    log.info("%s %s: %s", request.method, request.url.path, error)
    return error_response(request.url.path, "conflict", "somebody else made the same at this moment", hint="try again")


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: the database does not answer", request.method, request.url.path, exc_info=error)
    return error_response(request.url.path, "unreachable", "the database does not answer", hint="try again later")


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    where, what, hint = invalid_field(error.errors()[0])
    return error_response(request.url.path, "invalid", f"{where}: {what}", subject=where, hint=hint)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.url.path
    response = error_response(path, code_of(error.status_code), str(error.detail), subject=path)
    response.headers.update(error.headers or {})  # of 405, which methods the path takes
    return response


async def _gone(request: Request, error: Exception) -> JSONResponse:
    """Nobody reads the answer, and it is the hub's fault neither: the client left, or was too slow for the listener."""
    log.debug("%s %s: the client left before its body was here", request.method, request.url.path)
    return error_response(request.url.path, "deadline", "the body is not complete")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(request.url.path, "internal", "internal error; the hub's log has the reason")
