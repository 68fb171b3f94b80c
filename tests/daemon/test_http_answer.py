"""Answers as the client reads them, from servers that are not all the daemon's."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

from orchd.http_answer import FIELDS_MAX, HTTPAnswer
from orchd.transport import Response, SocketTransport, Unreachable


def send(connection: socket.socket, data: bytes) -> None:
    with connection:
        connection.sendall(data)


def read(data: bytes, method: str = "GET") -> tuple[HTTPAnswer, bytes]:
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=send, args=(theirs, data))
    sender.start()
    with ours:
        answer = HTTPAnswer(ours, method=method)
        answer.begin()
        body = answer.read()
        sender.join()
        return answer, body


@pytest.mark.parametrize(
    ("data", "status", "body", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}", False),
        (b"HTTP/1.1 201\r\ncontent-length:2\r\n\r\n{}more", 201, b"{}", False),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", 200, b"{}", False),
        (b"HTTP/1.1 200 Very Well\r\n\r\nuntil the end", 200, b"until the end", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}", True),
        (
            b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\n{}",
            200,
            b"{}",
            True,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n"
            b"1;x=y\r\n{\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n",
            200,
            b"{}",
            False,
        ),
        (
            b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            200,
            b"{}",
            False,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}", 200, b"{}", True),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9%s\r\n\r\n{}" % (b"9" * 5000),
            200,
            b"{}",
            True,
        ),
    ],
)
def test_an_answer_is_read_as_far_as_it_goes(
    data: bytes, status: int, body: bytes, closes: bool
) -> None:
    answer, content = read(data)
    assert (answer.status, content, answer.will_close) == (status, body, closes)


def test_the_answer_to_head_has_no_body() -> None:
    answer, body = read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD")
    assert (body, answer.will_close) == (b"", False)


def test_fields_are_read_with_their_names_in_lower_case() -> None:
    answer, _ = read(
        b"HTTP/1.1 200 OK\r\nA: 1\r\nB :\t2 \r\nnothing\r\nC: 3\r\n  4\r\na: \xfc:5\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    assert answer.fields == [
        ("a", "1"), ("b", "2"), ("c", "3 4"), ("a", "ü:5"), ("content-length", "0")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (FIELDS_MAX + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 " + b"2" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
    ids=range(11),
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        read(data)


def serve(listener: socket.socket, answers: list[bytes]) -> None:
    """Give each connection's requests one answer after the other, then close."""
    connection, _ = listener.accept()
    with connection:
        for answer in answers:
            connection.recv(65536)
            connection.sendall(answer)


def asked(answers: list[bytes], requests: int) -> list[Response]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener, answers))
        server.start()
        transport = SocketTransport(f"http://127.0.0.1:{listener.getsockname()[1]}")
        try:
            return [transport.request("GET", "/", body=b"[]") for _ in range(requests)]
        finally:
            transport.close()
            server.join()


def test_one_connection_carries_one_answer_after_the_other() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    plain = b"HTTP/1.1 404 Not Found\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\n[]"
    one, two, three = asked([chunked, plain, chunked], 3)
    assert (one.status, one.body, three.body) == (200, b"{}", b"{}")
    assert two == Response(404, {"retry-after": "3", "content-length": "2"}, b"[]")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"x"]
)
def test_an_answer_that_breaks_off_is_none(answer: bytes) -> None:
    with pytest.raises(Unreachable) as error:
        asked([answer], 1)
    assert error.value.sent is (answer != b"")
