"""The HTTP API as an ASGI application."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from orchd.ledger.port import LedgerUnavailable
from orchd.operations import Operations
from orchd.operations.errors import OperationError
from orchd_ops.http.bodies import NotJSONType, TooSlow
from orchd_ops.http.calls import Call, Handler, Services
from orchd_ops.http.doors import DoorKeeper, Doors
from orchd_ops.http.limits import STREAMS_MAX, WAITERS_MAX, Gate
from orchd_ops.http.openapi import document
from orchd_ops.http.problems import problem, problem_of
from orchd_ops.http.routes import ENDPOINTS

logger = logging.getLogger(__name__)

Health = Callable[[], Awaitable[Collection[str]]]
"""Returns why the daemon is not ready; nothing when it is."""


def build_app(
    operations: Operations,
    *,
    doors: Doors,
    metrics: Callable[[str], Awaitable[tuple[str, bytes]]] | None = None,
    health: Health | None = None,
    actor: str = "http",
) -> ASGIApp:
    """Return the API over `operations`.

    Args:
        operations: what the routes call.
        doors: who may enter.
        metrics: given an `Accept` header, renders content type and metrics.
        health: tells what keeps the daemon from being ready. Default: whether the
            ledger answers.
        actor: who asks, for the log, when a caller does not name itself.
    """
    services = Services(
        operations=operations,
        metrics=metrics,
        health=health or functools.partial(ledger_health, operations),
        waiters=Gate("waiting requests", WAITERS_MAX),
        streams=Gate("event streams", STREAMS_MAX),
        document=functools.cache(lambda: document(_version())),
        actor=actor,
    )
    by_path: dict[str, dict[str, Handler]] = {}
    for endpoint in ENDPOINTS:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint.handler
    routes = [
        Route(path, endpoint=Resource(handlers, services))
        for path, handlers in by_path.items()
    ]
    router = Starlette(routes=routes).router
    router.redirect_slashes = False
    router.default = _no_such_path
    fixed = {route.path: route.app for route in routes if not route.param_convertors}
    return DoorKeeper(Crossing(fixed, router), doors)


async def ledger_health(operations: Operations) -> list[str]:
    """Tell whether the ledger answers."""
    try:
        await operations.ledger.now()
    except LedgerUnavailable as error:
        return [f"the database does not answer: {error}"]
    return []


class Crossing:
    """Knows at once where a path without parameters leads, and asks a router else.

    A router compares a path with one pattern after the other.
    """

    def __init__(self, fixed: Mapping[str, ASGIApp], router: ASGIApp) -> None:
        self._fixed = fixed
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._fixed.get(scope["path"], self._router)
        await app(scope, receive, send)


class Resource:
    """One path: picks the handler by the method and turns errors into problems."""

    def __init__(self, handlers: dict[str, Handler], services: Services) -> None:
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers["HEAD"] = handlers["GET"]
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        handler = self._handlers.get(request.method)
        if handler is None:
            await self._wrong_method(request)(scope, receive, send)
            return
        try:
            answer = await self._answer(handler, request)
            await answer(scope, receive, send)
        except ClientDisconnect:
            logger.debug("the caller left before its body was read")

    def _wrong_method(self, request: Request) -> ASGIApp:
        allowed = ", ".join(sorted(self._handlers))
        detail = f"this path knows {allowed}"
        headers = {"Allow": allowed}
        instance = request.url.path
        return problem(405, "wrong_method", detail, instance=instance, headers=headers)

    async def _answer(self, handler: Handler, request: Request) -> ASGIApp:
        try:
            return await handler(Call(request, self._services))
        except ClientDisconnect:
            raise
        except asyncio.CancelledError:
            return self._cancelled(request.url.path)
        except Exception as error:
            return self._failed(error, request.url.path)

    def _failed(self, error: Exception, instance: str) -> ASGIApp:
        if isinstance(error, NotJSONType):
            return problem(415, error.code, error.detail, instance=instance)
        if isinstance(error, TooSlow):
            headers = {"Connection": "close"}
            return problem(
                408, error.code, error.detail, instance=instance, headers=headers
            )
        if isinstance(error, OperationError | LedgerUnavailable):
            return problem_of(error, instance)
        # The instance is percent-encoded, so it cannot forge a line of the log.
        logger.error("a request for %s failed", instance, exc_info=error)
        detail = "the daemon made a mistake; its log holds the details"
        return problem(500, "internal", detail, instance=instance)

    def _cancelled(self, instance: str) -> ASGIApp:
        # An engine that stops cancels what it has not committed. A request of which
        # the server itself lets go is cancelled too, and must not be answered.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        return problem(503, "stopping", "the daemon stops", instance=instance)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    instance = Request(scope).url.path
    detail = "there is no such path; see /openapi.json"
    answer = problem(404, "no_such_path", detail, instance=instance)
    await answer(scope, receive, send)


def _version() -> str:
    try:
        return importlib.metadata.version("orchd")
    except importlib.metadata.PackageNotFoundError:
        return "0"
