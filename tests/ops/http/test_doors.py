"""Every door guards every route, in the documented order."""

import pytest

from orchd_ops.http.doors import OPEN_PATHS, Doors
from orchd_ops.http.routes import ENDPOINTS
from support.api import API, TOKEN

ROUTES = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS]
EVERYWHERE = [*ROUTES, ("GET", "/nowhere"), ("DELETE", "/v1/tasks"), ("POST", "/livez")]
LOCAL = "Host: 127.0.0.1\nContent-Length: 0"
BEARER = f"Authorization: Bearer {TOKEN}"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost\nHost: x", "a@b", ""],
)
async def test_a_foreign_host_meets_421_before_anything_else(api: API, host: str) -> None:
    for method, path in EVERYWHERE:
        status, _, document = await api.send(
            f"{method} {path} HTTP/1.1\nHost: {host}\nContent-Length: 0\n{BEARER}\n"
            "Origin: http://evil.example"
        )
        assert (status, document["code"]) == (421, "foreign_host"), path


@pytest.mark.parametrize(
    "header", ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"]
)
async def test_a_foreign_page_meets_403_unless_it_only_reads(api: API, header: str) -> None:
    for method, path in EVERYWHERE:
        head = f"{method} {path} HTTP/1.1\n{LOCAL}\n{header}"
        status, _, document = await api.send(head)
        if method != "GET":
            assert (status, document["code"]) == (403, "foreign_origin")
        else:
            assert status == (200 if path in OPEN_PATHS else 401)


async def test_a_page_of_the_same_origin_may_write(api: API) -> None:
    headers = {"Origin": api.url, "Sec-Fetch-Site": "same-origin"}
    answer = await api.http.post("/v1/tasks", json={"description": "x"}, headers=headers)
    assert answer.status_code == 201


async def test_without_the_token_nothing_is_told(api: API) -> None:
    for method, path in EVERYWHERE:
        status, headers, _ = await api.send(f"{method} {path} HTTP/1.1\n{LOCAL}")
        if path in OPEN_PATHS:
            assert status == (200 if method == "GET" else 405)
            continue
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        wrong = "Authorization: Bearer wrong"
        status, _, _ = await api.send(f"{method} {path} HTTP/1.1\n{LOCAL}\n{wrong}")
        assert status == 403


@pytest.mark.parametrize(
    "path",
    ["/livez/", "//livez", "/livez/..", "/metrics/../v1/tasks", "/LIVEZ", "/v1/livez"],
)
async def test_only_the_exact_paths_are_open(api: API, path: str) -> None:
    status, _, _ = await api.send(f"GET {path} HTTP/1.1\n{LOCAL}")
    assert status == 401


@pytest.mark.parametrize(
    "value", [TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer \u00ff"]
)
async def test_only_the_token_itself_opens(api: API, value: str) -> None:
    head = f"GET /v1/tasks HTTP/1.1\n{LOCAL}\nAuthorization: {value}"
    status, _, _ = await api.send(head)
    assert status in (401, 403)


async def test_a_wrong_method_is_told_which_are_right(api: API) -> None:
    answer = await api.http.request("DELETE", "/v1/tasks")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"
    answer = await api.http.request("OPTIONS", "/v1/queues/a/pause")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_an_unknown_path_is_a_problem_too(api: API) -> None:
    answer = await api.http.get("/v1/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_path")


async def test_head_answers_like_get_without_the_body(api: API) -> None:
    for method, path in ROUTES:
        if method == "GET" and "{" not in path:
            answer = await api.http.head(path)
            assert (answer.status_code, answer.content) == (200, b""), path


async def test_every_answer_carries_the_security_headers(api: API) -> None:
    for path in ("/v1/tasks", "/nowhere", "/livez"):
        headers = (await api.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in headers


async def test_readiness_is_503_with_the_reason_and_a_time(api: API) -> None:
    assert (await api.http.get("/readyz")).status_code == 200
    api.health = ["it drains"]
    answer = await api.http.get("/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, "it drains")
    assert int(answer.headers["retry-after"]) > 0


def test_a_listener_for_the_world_opens_nothing_without_the_token() -> None:
    doors = Doors.for_listener("0.0.0.0", "t", ["API.example"])
    assert not doors.loopback
    assert "api.example" in doors.hosts
    with pytest.raises(ValueError, match="token"):
        Doors.for_listener("0.0.0.0", "")
