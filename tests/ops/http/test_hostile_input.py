"""No input is answered with a 5xx, and none that cannot be stored is accepted."""

import asyncio
import contextlib
import json

import pytest

from orchd_ops.http.bodies import BODY_BYTES_MAX
from orchd_ops.http.routes import ENDPOINTS
from support.api import API, TOKEN

MEBIBYTE = 1024 * 1024
JSON = {"Content-Type": "application/json"}


def nested(depth: int) -> str:
    return '{"description":"x","payload":' + "[" * depth + "]" * depth + "}"


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "NUL": (b'{"description":"a\\u0000b"}', 422),
    "NUL within a payload's key": (b'{"payload":{"a\\u0000":1}}', 422),
    "raw control character": (b'{"description":"a\0b"}', 400),
    "lone surrogate": (b'{"description":"\\ud800"}', 422),
    "lone surrogate in the payload": (b'{"payload":["\\udfff"]}', 422),
    "surrogate as bytes": (b'{"description":"\xed\xa0\x80"}', 422),
    "invalid UTF-8": (b'{"description":"\xff"}', 422),
    "NaN": (b'{"description":"x","payload":NaN}', 422),
    "Infinity": (b'{"description":"x","payload":-Infinity}', 422),
    "number beyond a double": (b'{"description":"x","payload":1e999}', 422),
    "endless integer": (b'{"description":"x","payload":' + b"9" * 5000 + b"}", 422),
    "depth 65": (nested(64).encode(), 422),
    "depth 100000": (nested(100_000).encode(), 422),
    "over 1 MiB": (json.dumps({"description": "x" * MEBIBYTE}).encode(), 413),
    "no JSON": (b"{description: x}", 400),
    "two values": (b"{} {}", 400),
    "empty": (b"", 422),
    "null": (b"null", 422),
    "a number": (b"7", 422),
    "empty array": (b"[]", 422),
    "array of nothing": (b"[null]", 422),
    "too many tasks": (json.dumps([{"description": "x"}] * 1001).encode(), 413),
    "unknown field": (b'{"description":"x","shell":"rm"}', 422),
    "field with a line break": (b'{"description":"x","a\\nb":1}', 422),
    "nothing to do": (b"{}", 422),
    "priority of 1.5": (b'{"description":"x","priority":1.5}', 422),
    "priority true": (b'{"description":"x","priority":true}', 422),
    "huge priority": (b'{"description":"x","priority":1e30}', 422),
    "no attempts": (b'{"description":"x","max_attempts":0}', 422),
    "id with a slash": (b'{"description":"x","id":"a/b"}', 422),
    "id of dots": (b'{"description":"x","id":".."}', 422),
    "id with a line break": (b'{"description":"x","id":"a\\nb"}', 422),
    "id with a bidirectional mark": ('{"description":"x","id":"a\u202eb"}'.encode(), 422),
    "long id": (json.dumps({"description": "x", "id": "a" * 201}).encode(), 422),
    "empty id": (b'{"description":"x","id":""}', 422),
    "queue of all": (b'{"description":"x","queue":"*"}', 422),
    "both times": (
        b'{"description":"x","delay":"1s","run_at":"2030-01-01T00:00:00Z"}',
        422,
    ),
    "time without offset": (b'{"description":"x","run_at":"2030-01-01T00:00:00"}', 422),
    "time that is none": (b'{"description":"x","run_at":"2030-02-31T00:00:00Z"}', 422),
    "endless delay": (b'{"description":"x","delay":"999999999d"}', 422),
    "no timeout": (b'{"description":"x","timeout":"0s"}', 422),
    "metadata array": (b'{"description":"x","metadata":[]}', 422),
    "trace and more": (
        b'{"description":"x","traceparent":"00-%s-%s-01\\n"}' % (b"a" * 32, b"b" * 16),
        422,
    ),
    "trace of nothing": (b'{"description":"x","traceparent":"00-zz"}', 422),
    "pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.", 422),
}


async def test_a_bad_submission_is_refused_and_leaves_nothing(api: API) -> None:
    for name, (body, status) in BAD_BODIES.items():
        answer = await api.http.post("/v1/tasks", content=body, headers=JSON)
        assert answer.status_code == status, f"{name}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json", name
        assert answer.json()["status"] == status, name
        assert await api.ledger.log_position() == 0, name


async def test_every_broken_rule_is_named_with_its_value(api: API) -> None:
    body = {"description": 1, "queue": 2, "colour": "red"}
    problem = (await api.http.post("/v1/tasks", json=body)).json()
    faults = {fault["field"]: fault["value"] for fault in problem["errors"]}
    assert faults == body


@pytest.mark.parametrize(
    "payload",
    ["\\u0000", "a\\nb", {"$blob": "x"}, [[]] * 60, 10**4000, 1.1, "é\U0001f600", False, 0],
    ids=str,
)
async def test_odd_payloads_that_can_be_stored_come_back_as_they_were(
    api: API, payload: object
) -> None:
    task = await api.submit(id="a", payload=payload)
    assert task["payload"] == payload
    assert (await api.http.get("/v1/tasks/a")).json()["payload"] == payload


async def test_a_payload_nested_64_deep_is_accepted(api: API) -> None:
    answer = await api.http.post("/v1/tasks", content=nested(63), headers=JSON)
    assert answer.status_code == 201


BAD_QUERIES = [
    "/v1/tasks?limit=0",
    "/v1/tasks?limit=1001",
    "/v1/tasks?limit=9999999999999999999999",
    "/v1/tasks?limit=%D9%A3",
    "/v1/tasks?status=lost",
    "/v1/tasks?stauts=failed",
    "/v1/tasks?cursor=%00",
    "/v1/tasks?cursor=nonsense",
    "/v1/tasks?cursor=WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAsIngiXQ",
    "/v1/tasks?cursor=WzEsIlx1MDAwMCJd",
    "/v1/tasks?queue=%00",
    "/v1/tasks?limit=1&limit=2",
    "/v1/tasks?since=yesterday",
    "/v1/dlq?older_than=9999999999999d",
    "/v1/log?after=-1",
    "/v1/log?after=99999999999999999999",
    "/v1/log?wait=soon",
    "/v1/events?after=x",
]


async def test_a_bad_query_is_refused(api: API) -> None:
    for path in BAD_QUERIES:
        answer = await api.http.get(path)
        assert answer.status_code == 422, f"{path}: {answer.text}"
        assert answer.json()["errors"], path


@pytest.mark.parametrize(
    "name", ["%00", "%ED%A0%80", "%2F", "a%0Ab", "x" * 5000, "%F0%9F%98%80", "..%2F"]
)
async def test_a_strange_name_in_a_path_is_no_server_error(api: API, name: str) -> None:
    for endpoint in ENDPOINTS:
        if "{" in endpoint.path:
            path = endpoint.path.replace("{id}", name).replace("{name}", name)
            status, _, _ = await api.send(
                f"{endpoint.method} {path} HTTP/1.1\nHost: localhost\n"
                f"Authorization: Bearer {TOKEN}\nContent-Length: 0"
            )
            assert status < 500


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ("text/plain", None),
        ("application/x-www-form-urlencoded", None),
        ("application/x-python-serialize", None),
        (None, None),
        ("application/json; charset=utf-16", None),
        ("application/json", "gzip"),
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_refused(
    api: API, kind: str | None, encoding: str | None
) -> None:
    headers = {}
    if kind is not None:
        headers["Content-Type"] = kind
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    answer = await api.http.post(
        "/v1/tasks", content=b'{"description":"x"}', headers=headers
    )
    assert answer.status_code == 415


async def test_a_declared_length_beyond_the_limit_is_refused_at_once(api: API) -> None:
    head = (
        f"POST /v1/tasks HTTP/1.1\nHost: localhost\nAuthorization: Bearer {TOKEN}\n"
        "Content-Type: application/json\nExpect: 100-continue\nContent-Length: "
    )
    for length in (BODY_BYTES_MAX + 1, 10**30):
        status, headers, _ = await api.send(f"{head}{length}")
        assert status in (400, 413)
        assert headers["connection"] == "close"


async def _send_chunks(api: API, mebibytes: int) -> tuple[int, bytes]:
    """Send chunks as far as the server lets; return their number and the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(
        b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    )
    sent = 0
    answer = b""
    try:
        while sent < mebibytes:
            writer.write(b"100000\r\n" + b" " * MEBIBYTE + b"\r\n")
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")
        answer = await reader.read()
    except ConnectionError:
        # Who goes on sending regardless is cut off, and may not see the answer.
        pass
    writer.close()
    return sent, answer


async def test_a_body_in_chunks_beyond_the_limit_is_refused(api: API) -> None:
    sent, answer = await _send_chunks(api, 20)
    assert sent == 20
    assert answer.startswith(b"HTTP/1.1 413")


async def test_an_endless_body_is_cut_off_early(api: API) -> None:
    sent, _ = await _send_chunks(api, 1000)
    assert sent < 100


async def test_a_head_that_is_no_http_is_refused(api: API) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(b"\x00\x01")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_head_without_end_is_cut_off(api: API) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(b"GET / HTTP/1.1\r\nX: ")
    try:
        while not reader.at_eof():
            writer.write(b"a" * 1000)
            await writer.drain()
            answer = await asyncio.wait_for(_some(reader), 10)
            if answer:
                assert answer.startswith(b"HTTP/1.1 400")
                break
    except ConnectionError:
        pass
    assert (await api.http.get("/livez")).status_code == 200
    writer.close()


async def _some(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(0.01):
            return await reader.read(100)
    except TimeoutError:
        return b""


async def test_a_large_body_is_no_large_head(api: API) -> None:
    for _ in range(3):
        await api.submit(description="x" * 900_000)


_POST = (
    b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
)


async def _status(reader: asyncio.StreamReader) -> int:
    """Read one answer and return its status."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().splitlines()
        length = next(line for line in lines if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
    return int(head.split()[1])


async def test_an_offer_of_another_protocol_is_declined(api: API) -> None:
    """Java's client makes one with every first request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n"
    )
    for number in range(3):
        body = b'{"description":"x","id":"%d"}' % number
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        writer.write(_POST + offer + length + body)
        assert await _status(reader) == 201
    chunked = b"Transfer-Encoding: chunked\r\n\r\n12\r\n" + b'{"description":"x"' + b"\r\n"
    writer.write(_POST + offer + chunked)
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(b"1\r\n}\r\n0\r\n\r\n" + _POST + offer + b"Content-Length: 2\r\n\r\n{}")
    assert await _status(reader) == 201
    assert await _status(reader) == 422
    # Who wants the connection to end with its answer gets that, offer or not.
    last = offer.replace(b"Upgrade, ", b"Close, Upgrade, ")
    writer.write(_POST + last + b"Content-Length: 2\r\n\r\n{}")
    assert await _status(reader) == 422
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_fields_behind_a_body_are_no_headers(api: API) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    body = b'{"description":"x"}'
    chunk = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    trailer = b"Idempotency-Key: later\r\nContent-Type: text/plain\r\nHost: evil\r\n\r\n"
    writer.write(_POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + trailer)
    assert await _status(reader) == 201
    # The key of the trailer is still free for another task.
    await api.submit(description="other", idempotency_key="later")
    writer.close()


async def _send_until_cut_off(writer: asyncio.StreamWriter, field: bytes) -> int:
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 20 * MEBIBYTE:
            writer.write(field)
            await writer.drain()
            sent += len(field)
    return sent


async def test_a_proxy_is_what_this_is_not(api: API) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize("field", [b"a: " + b"b" * 990 + b"\r\n", b"c" * 1000])
async def test_fields_behind_a_body_without_end_are_cut_off(api: API, field: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(_POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    sent = await _send_until_cut_off(writer, field)
    assert sent < 20 * MEBIBYTE
    assert (await api.http.get("/livez")).status_code == 200
    writer.close()
