"""The Python client against the real server, over TCP and over the socket."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from orchd.client import (
    Client,
    Conflict,
    NotFound,
    Refused,
    Response,
    SocketTransport,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from orchd.transport import InvalidToken
from orchd_ops.http.server import peer_allowed, peer_user
from support.api import API, TOKEN


@pytest.fixture(params=["tcp", "socket"])
def client(api: API, request: pytest.FixtureRequest) -> Client:
    """A client of the running API."""
    if request.param == "tcp":
        return Client(api.url, TOKEN)
    return Client(api.socket)


async def run(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await asyncio.to_thread(function, *args, **options)


async def test_the_client_submits_reads_lists_and_cancels(api: API, client: Client) -> None:
    with client:
        task = await run(
            client.submit, "count words", queue="night", id="a/b".replace("/", "?")
        )
        assert (await run(client.get, "a?b")) == task
        assert [
            one["id"] for one in await run(lambda: list(client.list(queue="night")))
        ] == ["a?b"]
        assert (await run(client.cancel, "a?b", "enough"))["status"] == "cancelled"
        events = await run(client.events, "a?b")
        assert [event["type"] for event in events] == ["task.submitted", "task.cancelled"]
        assert (await run(client.wait, "a?b"))["status"] == "cancelled"


async def test_problems_are_typed_errors(api: API, client: Client) -> None:
    with client:
        await run(client.submit, "x", id="a")
        with pytest.raises(NotFound):
            await run(client.get, "nobody")
        with pytest.raises(Conflict):
            await run(client.submit, "y", id="a")
        with pytest.raises(Refused) as refused:
            await run(client.submit, "x", colour="red")
        assert refused.value.errors[0]["field"] == "colour"
        with pytest.raises(TimeoutError):
            await run(client.wait, "a", 0.05)


async def test_many_tasks_are_sent_in_chunks_that_can_be_repeated(
    api: API, client: Client
) -> None:
    tasks = [{"id": f"t{number}", "description": "x"} for number in range(1200)]
    with client:
        first = await run(lambda: list(client.submit_many(tasks)))
        again = await run(lambda: list(client.submit_many(iter(tasks))))
    assert {one["outcome"] for one in first} == {"created"}
    assert {one["outcome"] for one in again} == {"existing"}
    assert [one["id"] for one in first] == [task["id"] for task in tasks]


async def test_dead_letters_are_requeued_through_the_client(
    api: API, client: Client
) -> None:
    task_id = await api.dead_letter()
    with client:
        (outcome,) = await run(client.requeue, task_id)
        assert outcome["outcome"] == "requeued"
        with pytest.raises(Conflict):
            await run(client.requeue, task_id)


async def test_a_wrong_token_is_told(api: API) -> None:
    for token in (None, "wrong"):
        with Client(api.url, token) as client, pytest.raises(Unauthorized):
            await run(client.get, "a")


async def test_the_caller_on_the_socket_is_named_in_the_log(api: API) -> None:
    with Client(api.socket) as client:
        await run(client.submit, "x", id="a")
        (event,) = await run(client.events, "a")
    assert event["meta"]["actor"] == "cli"


def test_nobody_there_is_unreachable_and_nothing_was_sent(tmp_path: Any) -> None:
    for address in ("http://127.0.0.1:1", tmp_path / "none.sock"):
        with Client(address) as client, pytest.raises(Unreachable) as error:
            client.submit("x")
        assert not error.value.sent


async def closed(api: API) -> None:
    """Close all connections as a server does that finds them idle."""
    connections = api.server._server.server_state.connections
    for connection in list(connections):
        connection.transport.close()
    while connections:
        await asyncio.sleep(0.01)


async def test_a_connection_that_the_server_closed_meanwhile_is_made_anew(
    api: API,
) -> None:
    dead = await api.dead_letter()
    with Client(api.url, TOKEN) as client:
        await run(client.submit, "x", id="a")
        await closed(api)
        assert (await run(client.get, "a"))["id"] == "a"
        await closed(api)
        # What must not be sent twice is sent on a connection that is known to be open.
        (outcome,) = await run(client.requeue, dead)
        assert outcome["outcome"] == "requeued"


class Counting:
    """A socket that remembers what it sends, each piece for itself."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)
        self._connection.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_a_request_is_sent_in_one_piece(api: API) -> None:
    """Else a daemon wakes up for the head, and again for the body."""
    transport = SocketTransport(api.socket)
    transport._connect()
    assert transport._connection.sock is not None
    counting = Counting(transport._connection.sock)
    transport._connection.sock = cast(socket.socket, counting)
    for body in (b'{"description":"x"}', b"[]"):
        answer = await run(transport.request, "POST", "/v1/tasks", None, body)
        assert answer.status == (201 if body != b"[]" else 422)
    transport.close()
    one, other = counting.pieces
    assert one.endswith(b'\r\n\r\n{"description":"x"}')
    assert other.endswith(b"\r\n\r\n[]")


async def test_chunks_are_cut_by_their_number_and_by_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Response(200, {}, b'{"items": [{"outcome": "created"}]}')
    scripted = Scripted(page)
    monkeypatch.setattr("orchd.client.CHUNK_TASKS", 3)
    monkeypatch.setattr("orchd.client.CHUNK_BYTES", 1000)
    small = [{"id": str(number), "description": "ü"} for number in range(4)]
    large = [{"id": "large", "description": "x" * 2000}, {"id": "last", "queue": "a"}]
    with Client(transport=scripted) as client:
        assert len(list(client.submit_many([*small, *large]))) == 4
    sent = [json.loads(body) for body in scripted.bodies]
    assert sent == [small[:3], small[3:], large[:1], large[1:]]


async def test_what_is_no_json_is_not_sent() -> None:
    scripted = Scripted(Response(200, {}, b"{}"))
    with Client(transport=scripted) as client:
        for payload in (float("nan"), "\ud800"):
            with pytest.raises(ValueError, match=r"JSON|surrogates"):
                client.submit("x", payload=payload)
            with pytest.raises(ValueError, match=r"JSON|surrogates"):
                list(client.submit_many([{"description": "x", "payload": payload}]))
    assert scripted.calls == 0


class Scripted:
    """Answers with what it is given, at once."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.calls = 0
        self.bodies: list[bytes] = []

    def request(
        self,
        method: str,
        path: str,
        headers: Any = None,
        body: bytes | None = None,
        **options: Any,
    ) -> Response:
        self.calls += 1
        self.bodies.append(body or b"")
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def close(self) -> None:
        pass


def test_waiting_ends_when_the_time_is_over_though_no_request_is_held() -> None:
    transport = Scripted(Response(200, {}, b'{"status": "pending"}'))
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="still pending"):
        Client(transport=transport).wait("a", 0.5)
    assert 0.5 <= time.monotonic() - started < 5
    assert transport.calls < 20


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e8, 3e9),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
        ("soon", 1, 1),
        ("-5", 1, 1),
    ],
)
def test_a_refusal_says_when_to_come_back_in_seconds_or_as_a_date(
    text: str, least: float, most: float
) -> None:
    client = Client(transport=Scripted(Response(503, {"retry-after": text}, b"{}")))
    with pytest.raises(Unavailable) as caught:
        client.get("a")
    assert least <= caught.value.retry_after_seconds <= most


async def test_a_token_that_no_header_can_carry_is_not_printed(api: API) -> None:
    with pytest.raises(InvalidToken) as caught:
        Client(api.url, "secret\nX-Injected: 1")
    assert "secret" not in str(caught.value)
    with Client(api.url, f"{TOKEN}\n") as client:
        await run(client.submit, "x", id="a")


class Broken:
    """Carries requests out, but loses the first answers."""

    def __init__(self, transport: SocketTransport, losses: int) -> None:
        self._transport = transport
        self.losses = losses

    def request(self, *args: Any, **options: Any) -> Response:
        answer = self._transport.request(*args, **options)
        if self.losses:
            self.losses -= 1
            raise Unreachable("the answer was lost", sent=True)
        return answer

    def close(self) -> None:
        self._transport.close()


async def test_a_submission_whose_answer_was_lost_is_one_task(api: API) -> None:
    transport = Broken(SocketTransport(api.socket), losses=2)
    with Client(transport=transport) as client:
        await run(client.submit, "x")
    assert len((await api.http.get("/v1/tasks")).json()["items"]) == 1


async def test_the_socket_belongs_to_its_user_alone(api: API) -> None:
    assert stat.S_IMODE(os.stat(api.socket).st_mode) == 0o600
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        assert peer_user(ours) == os.geteuid()
    assert peer_allowed(0)
    assert peer_allowed(os.geteuid())
    assert not peer_allowed(os.geteuid() + 1)
    assert not peer_allowed(None)


STRANGER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.settimeout(10)
try:
    connection.sendall(b"GET /v1/tasks HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
except BrokenPipeError:
    pass
sys.stdout.buffer.write(connection.recv(65536))
"""


async def test_another_user_is_refused_whatever_the_sockets_mode(api: API) -> None:
    if os.geteuid() != 0:
        # Only root can become somebody else; the rule is then proved by its parts.
        assert not peer_allowed(65534)
        return
    os.chmod(api.socket, 0o666)
    directory = api.socket.parent
    while directory != directory.parent:
        os.chmod(directory, os.stat(directory).st_mode | 0o011)
        directory = directory.parent
    command = [sys.executable, "-c", STRANGER, str(api.socket)]
    done = await run(subprocess.run, command, capture_output=True, timeout=30)
    assert done.stdout.startswith(b"HTTP/1.1 403"), done


def test_importing_the_client_stays_cheap() -> None:
    code = "import orchd.client, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"sqlalchemy", "anthropic", "starlette", "msgspec", "asyncio", "rich", "click"}
    assert not heavy & set(done.stdout.split())
