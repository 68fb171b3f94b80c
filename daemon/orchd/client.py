"""A client of the HTTP API: `Client(url_or_socket)`, blocking, on the standard library.

Every answer is the JSON that the API sent, parsed. Problems are raised as one of the
exceptions below, which carry the problem's own document.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from orchd.transport import (
    ANSWER_SECONDS,
    Response,
    SocketTransport,
    Transport,
    Unreachable,
)

if TYPE_CHECKING:
    from orchd.system import System

__all__ = [
    "Client",
    "Conflict",
    "NotFound",
    "Problem",
    "Refused",
    "Response",
    "SocketTransport",
    "Transport",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
]

DEFAULT_URL = "http://127.0.0.1:8470"
CHUNK_TASKS = 1000
"""Tasks in one request of `submit_many`; more are not taken."""
CHUNK_BYTES = 8 * 1024 * 1024
"""Bytes of JSON in one request of `submit_many`, unless one task alone is larger."""
REPEATS = 5
"""How often a request that is safe to repeat is repeated when nobody answers."""
PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0)
"""Pauses between these repetitions; the last one holds for all later ones."""
RETRY_AFTER_SECONDS = 1.0
"""When another try makes sense if the refusal does not say."""
WAIT_SECONDS = 20.0
"""How long one request of `wait` lets the server hold it."""

TERMINAL = frozenset({"completed", "failed", "cancelled", "discarded"})

JSONObject = dict[str, Any]


class Problem(Exception):
    """The API refused.

    Attributes:
        status: the HTTP status code.
        document: the problem document (RFC 9457), or what there was instead.
        errors: the single faults as `{field, rule, value}`, when the API named them.
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = dict(document)
        self.errors: list[JSONObject] = list(document.get("errors", ()))
        title = document.get("title", "the request failed")
        super().__init__(str(document.get("detail") or title))


class NotFound(Problem):
    """There is no such thing (404)."""


class Conflict(Problem):
    """It does not fit the state that the thing is in (409)."""


class Refused(Problem):
    """The request breaks a rule (400, 413, 415, 422)."""


class Unauthorized(Problem):
    """The token is missing or wrong, or the request came from a foreign place."""


class Unavailable(Problem):
    """Not now (429, 503).

    Attributes:
        retry_after_seconds: when another try makes sense.
    """

    def __init__(
        self, status: int, document: Mapping[str, Any], retry_after_seconds: float
    ) -> None:
        super().__init__(status, document)
        self.retry_after_seconds = retry_after_seconds


_KINDS: dict[int, type[Problem]] = {
    400: Refused,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: Refused,
    415: Refused,
    421: Unauthorized,
    422: Refused,
}


class Client:
    """Talks to a daemon.

    Args:
        url_or_socket: `http://HOST:PORT`, or the path of a daemon's socket. Default:
            `$ORCHD_URL`, else `http://127.0.0.1:8470`.
        token: the bearer token. Default: `$ORCHD_TOKEN`. A socket needs none.
        transport: used instead of an address.
    """

    def __init__(
        self,
        url_or_socket: str | Path | None = None,
        token: str | None = None,
        *,
        transport: Transport | None = None,
    ) -> None:
        if transport is None:
            address = url_or_socket or os.environ.get("ORCHD_URL") or DEFAULT_URL
            transport = SocketTransport(address, token or os.environ.get("ORCHD_TOKEN"))
        self._transport = transport

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._transport.close()

    # --- tasks ------------------------------------------------------------------------

    def submit(self, description: str | None = None, **fields: Any) -> JSONObject:
        """Submit a task and return it; repeating it is safe, also after a broken answer.

        Args:
            description: what is to be done.
            fields: any other field of a submission: `id`, `idempotency_key`, `payload`,
                `executor`, `verifiers`, `queue`, `priority`, `run_at`, `delay`,
                `timeout`, `max_attempts`, `metadata`, `traceparent`.

        Raises:
            Refused: a field breaks a rule, or the key was used for another task.
            Conflict: the id was used for another task.
            Unavailable: the database does not answer.
            Unreachable: nobody answers.
        """
        body = {key: value for key, value in fields.items() if value is not None}
        if description is not None:
            body["description"] = description
        if "id" not in body and "idempotency_key" not in body:
            body["id"] = _new_id()
        answer = self.request("POST", "/v1/tasks", body, repeat=True)
        return _as_object(answer)

    def submit_many(self, tasks: Iterable[Mapping[str, Any]]) -> Iterator[JSONObject]:
        """Submit tasks in chunks and yield one outcome each, in order.

        An outcome is `{"id", "outcome", "code", "detail", "errors"}`, where `outcome` is
        `created`, `existing` or `refused`, and the last three say why it was
        refused. Tasks without id and key get an id here, so that a chunk whose answer
        was lost can be sent again. Nothing is sent before the iterator is used.
        """
        for chunk in _chunks(map(_encode, _with_ids(tasks))):
            data = b"[%b]" % b",".join(chunk)
            answer = self._send("POST", "/v1/tasks?each=true", None, data, safe=True)
            yield from _as_object(_parsed(answer))["items"]

    def get(self, task_id: str) -> JSONObject:
        """Return a task; raises `NotFound`."""
        return _as_object(self.request("GET", _task_path(task_id)))

    def list(self, **filters: Any) -> Iterator[JSONObject]:
        """Yield tasks, newest first, over all pages.

        Filters: `status`, `queue`, `executor`, `error_class`, `since`; `limit` is the
        size of a page.
        """
        return self.pages("/v1/tasks", **filters)

    def events(self, task_id: str) -> Sequence[JSONObject]:
        """Return everything that happened to a task, in order; raises `NotFound`."""
        return tuple(self.pages(_task_path(task_id, "events"), limit=1000))

    def why(self, task_id: str) -> JSONObject:
        """Return in plain sentences why a task is where it is; raises `NotFound`."""
        return _as_object(self.request("GET", _task_path(task_id, "why")))

    def cancel(self, task_id: str, reason: str = "") -> JSONObject:
        """Cancel a task and return it; raises `NotFound`, `Conflict`."""
        path = _task_path(task_id, "cancel")
        return _as_object(self.request("POST", path, {"reason": reason}, repeat=True))

    def wait(self, task_id: str, timeout_seconds: float | None = None) -> JSONObject:
        """Return a task as soon as it is completed, failed, cancelled or discarded.

        Raises:
            TimeoutError: it was none of these after `timeout_seconds`.
            NotFound: there is no such task.
        """
        system = _real_system()
        started = system.monotonic()
        left = timeout_seconds
        while True:
            asked = system.monotonic()
            hold = WAIT_SECONDS if left is None else min(WAIT_SECONDS, left)
            path = _task_path(task_id) + f"?wait={max(0, round(hold * 1000))}ms"
            answer = self.request(
                "GET", path, timeout_seconds=hold + ANSWER_SECONDS, repeat=True
            )
            task = _as_object(answer)
            if task["status"] in TERMINAL:
                return task
            now = system.monotonic()
            if timeout_seconds is not None:
                left = timeout_seconds - (now - started)
                if left <= 0:
                    raise TimeoutError(f"task {task_id} is still {task['status']}")
            if now - asked < hold / 2:
                # It did not hold the request for as long as asked: it is leaving.
                system.block(PAUSES_SECONDS[0])

    # --- dead letters -----------------------------------------------------------------

    def requeue(self, *task_ids: str, **choice: Any) -> Sequence[JSONObject]:
        """Give dead letters a new round; return `{"id", "outcome", …}` for each.

        Choice: `all=True` or `queue`, `executor`, `error_class`, `older_than`; and
        `dry_run`, `reason`, `rate`, `verify_only`.

        Raises:
            NotFound: none of the named tasks exists.
            Conflict: none of the named tasks is failed or discarded.
        """
        return tuple(self.act_on_dead_letters("requeue", task_ids, **choice))

    def discard(self, *task_ids: str, **choice: Any) -> Sequence[JSONObject]:
        """Put dead letters away for good; arguments and result as in `requeue`."""
        return tuple(self.act_on_dead_letters("discard", task_ids, **choice))

    def act_on_dead_letters(
        self, verb: str, task_ids: Sequence[str], **choice: Any
    ) -> Iterator[JSONObject]:
        """Yield the outcomes of `requeue` or `discard` as they arrive."""
        body = {key: value for key, value in choice.items() if value is not None}
        if task_ids:
            body["ids"] = list(task_ids)
        while True:
            page = _as_object(self.request("POST", f"/v1/dlq/{verb}", body))
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            body["cursor"] = page["next_cursor"]

    # --- anything else ----------------------------------------------------------------

    def pages(self, path: str, **query: Any) -> Iterator[JSONObject]:
        """Yield the items of any listing over all its pages."""
        wanted = {key: value for key, value in query.items() if value is not None}
        while True:
            question = "?" + urlencode(wanted, doseq=True) if wanted else ""
            page = _as_object(self.request("GET", path + question, repeat=True))
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            wanted["cursor"] = page["next_cursor"]

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = ANSWER_SECONDS,
        repeat: bool | None = None,
    ) -> Any:
        """Send any request and return its parsed answer.

        Args:
            method: `GET`, `POST`, …
            path: percent-encoded, with its query.
            body: anything that JSON can hold; None sends no body.
            headers: further headers.
            timeout_seconds: how long to wait for the answer.
            repeat: whether it is safe to send it again when nobody answered. Default:
                only for `GET` and `HEAD`.

        Raises:
            Problem: the API refused; one of the subclasses in this module.
            Unreachable: nobody answered.
        """
        data = None if body is None else _encode(body)
        safe = method in ("GET", "HEAD") if repeat is None else repeat
        answer = self._send(
            method, path, headers, data, safe=safe, timeout_seconds=timeout_seconds
        )
        return _parsed(answer)

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        data: bytes | None,
        *,
        safe: bool,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Response:
        for repeats in range(REPEATS):
            try:
                return self._transport.request(
                    method, path, headers, data, timeout_seconds=timeout_seconds
                )
            except Unreachable as error:
                # A refused connection is an answer: nobody is there.
                if not (safe and error.sent) or repeats + 1 == REPEATS:
                    raise
            _pause(repeats)
        raise AssertionError("the loop returns or raises")


# `allow_nan` would write what is no JSON; surrogates cannot be encoded. Both are the
# caller's mistakes and end in `_encode` as a ValueError.
_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _encode(body: Any) -> bytes:
    return _JSON.encode(body).encode()


def _parsed(answer: Response) -> Any:
    if answer.status >= 400:
        raise _problem(answer)
    return json.loads(answer.body) if answer.body else None


def _as_object(answer: Any) -> JSONObject:
    if not isinstance(answer, dict):
        raise Problem(502, {"title": "the answer is no JSON object"})
    return answer


def _problem(answer: Response) -> Problem:
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        text = answer.body[:200].decode(errors="replace")
        document = {"title": f"HTTP status {answer.status}", "detail": text}
    if answer.status in (429, 503):
        pause = _retry_after_seconds(answer.headers.get("retry-after", ""))
        return Unavailable(answer.status, document, pause)
    return _KINDS.get(answer.status, Problem)(answer.status, document)


def _task_path(task_id: str, *more: str) -> str:
    return "/".join(("/v1/tasks", quote(task_id, safe=""), *more))


def _with_ids(tasks: Iterable[Mapping[str, Any]]) -> Iterator[JSONObject]:
    for task in tasks:
        body = dict(task)
        if body.get("id") is None and body.get("idempotency_key") is None:
            body["id"] = _new_id()
        yield body


def _chunks(tasks: Iterator[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for task in tasks:
        if chunk and (size + len(task) > CHUNK_BYTES or len(chunk) == CHUNK_TASKS):
            yield chunk
            chunk, size = [], 0
        chunk.append(task)
        size += len(task)
    if chunk:
        yield chunk


def _retry_after_seconds(text: str) -> float:
    """Read `Retry-After` (RFC 9110, 10.2.3): seconds, or from a proxy a date."""
    if text.isascii() and text.isdigit():
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        instant = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return RETRY_AFTER_SECONDS
    return max(0.0, instant - _real_system().now() / 1_000_000)


_systems: list[System] = []


def _real_system() -> System:
    # The module behind it is not needed to read; reading is what most calls do.
    if not _systems:
        from orchd.system import RealSystem

        _systems.append(RealSystem())
    return _systems[0]


def _new_id() -> str:
    return _real_system().new_id()


def _pause(repeats: int) -> None:
    _real_system().block(PAUSES_SECONDS[min(repeats, len(PAUSES_SECONDS) - 1)])
