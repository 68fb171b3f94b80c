"""Dead letters, queues, breakers, the log and the description over HTTP."""

import asyncio
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from openapi_spec_validator import validate

from orchd.breakers import Open
from orchd.ledger.port import ActOnBreaker, LedgerUnavailable
from orchd_ops.http.routes import ENDPOINTS
from support.api import API, METRICS, ORIGIN


async def post(api: API, path: str, **body: Any) -> Any:
    return await api.http.post(path, json=body)


async def test_requeueing_makes_one_new_run_however_often_it_is_pressed(api: API) -> None:
    task_id = await api.dead_letter()
    presses = (post(api, "/v1/dlq/requeue", ids=[task_id]) for _ in range(20))
    answers = await asyncio.gather(*presses)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    events = await api.ledger.task_events(task_id)
    assert [event.type for event in events].count("task.requeued") == 1


async def test_requeueing_all_leaves_no_dead_letter_of_the_choice(api: API) -> None:
    chosen = {await api.dead_letter(queue="a") for _ in range(3)}
    other = await api.dead_letter(queue="b")
    dry = (await post(api, "/v1/dlq/requeue", queue="a", dry_run=True)).json()
    assert {item["id"] for item in dry["items"]} == chosen
    assert {item["outcome"] for item in dry["items"]} == {"would_requeue"}
    done = (await post(api, "/v1/dlq/requeue", queue="a", reason="fixed")).json()
    assert {item["id"] for item in done["items"]} == chosen
    left = (await api.http.get("/v1/dlq")).json()["items"]
    assert [task["id"] for task in left] == [other]
    (*_, event) = await api.ledger.task_events(chosen.pop())
    assert json.loads(event.meta)["reason"] == "fixed"


async def test_a_mixed_choice_tells_each_outcome(api: API) -> None:
    dead = await api.dead_letter()
    alive = (await api.submit())["id"]
    answer = await post(api, "/v1/dlq/discard", ids=[alive, dead, "nobody", "a/b"])
    outcomes = [item["outcome"] for item in answer.json()["items"]]
    assert outcomes == ["conflict", "discarded", "not_found", "not_found"]
    assert (await post(api, "/v1/dlq/requeue", ids=["nobody"])).status_code == 404
    assert (await post(api, "/v1/dlq/requeue", ids=[alive])).status_code == 409
    assert (await post(api, "/v1/dlq/requeue", ids=[dead])).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": []},
        {"ids": ["a"], "all": True},
        {"all": True, "colour": "red"},
        {"all": True, "rate": "fast"},
        {"all": True, "rate": "0/s"},
        {"all": True, "older_than": "long"},
        {"all": True, "cursor": "\ud83d"},
        {"ids": ["a"], "cursor": "x"},
        {"all": "yes"},
        [],
        None,
    ],
    ids=str,
)
async def test_a_choice_that_names_nothing_or_nonsense_is_refused(
    api: API, body: Any
) -> None:
    data = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    answer = await api.http.post("/v1/dlq/requeue", content=data, headers=headers)
    assert answer.status_code == 422, answer.text


async def test_a_rate_spreads_the_requeues_and_hands_out_a_cursor(api: API) -> None:
    for _ in range(4):
        await api.dead_letter()
    seen: list[str] = []
    body: dict[str, Any] = {"all": True, "rate": "0.5/s", "dry_run": True}
    while True:
        page = (await post(api, "/v1/dlq/requeue", **body)).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        body["cursor"] = page["next_cursor"]
    assert len(set(seen)) == len(seen) == 4


async def test_a_queue_is_paused_and_resumed_with_its_reason(api: API) -> None:
    await api.submit(queue="night")
    paused = (await post(api, "/v1/queues/night/pause", reason="repairs")).json()
    assert (paused["paused"], paused["reason"]) == (True, "repairs")
    assert paused["depth"]["pending"] == 1
    listed = (await api.http.get("/v1/queues")).json()["items"]
    assert [queue["name"] for queue in listed if queue["paused"]] == ["night"]
    assert not (await post(api, "/v1/queues/night/resume")).json()["paused"]


async def test_a_breaker_is_reset(api: API) -> None:
    now = await api.ledger.now()
    command = Open(now=now, failures=5, error="down", cooldown=60_000_000)
    await api.commit([ActOnBreaker(name="count", command=command, origin=ORIGIN)])
    (breaker,) = (await api.http.get("/v1/breakers")).json()["items"]
    assert (breaker["state"], breaker["failures"]) == ("open", 5)
    reset = await post(api, "/v1/breakers/count/reset")
    assert reset.json()["state"] == "closed"
    assert (await post(api, "/v1/breakers/nobody/reset")).status_code == 404


async def test_the_log_is_read_by_position_and_waits_for_news(api: API) -> None:
    for _ in range(3):
        await api.submit()
    page = (await api.http.get("/v1/log?limit=2")).json()
    assert [event["position"] for event in page["items"]] == [1, 2]
    page = (await api.http.get("/v1/log", params={"cursor": page["next_cursor"]})).json()
    assert [event["position"] for event in page["items"]] == [3]
    waiting = asyncio.create_task(api.http.get("/v1/log?after=3&wait=30s"))
    await api.submit()
    assert [event["position"] for event in (await waiting).json()["items"]] == [4]


async def test_metrics_are_shown_as_they_are_rendered(api: API) -> None:
    answer = await api.http.get("/metrics")
    assert answer.content == METRICS
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_the_description_is_valid_and_covers_every_route(api: API) -> None:
    description = (await api.http.get("/openapi.json")).json()
    validate(description)
    described = {
        (method.upper(), path)
        for path, methods in description["paths"].items()
        for method in methods
    }
    assert described == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}


async def test_a_ledger_that_does_not_answer_is_503_with_a_time(
    api: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise LedgerUnavailable("gone")

    for name in ("task", "tasks", "log", "queues", "breakers"):
        monkeypatch.setattr(api.ledger, name, fail)
    for path in ("/v1/tasks", "/v1/tasks/a", "/v1/log", "/v1/queues", "/v1/breakers"):
        answer = await api.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def test_an_answer_says_when_it_was_given(api: API) -> None:
    for _ in range(2):
        answer = await api.http.get("/livez")
        given = parsedate_to_datetime(answer.headers["Date"])
        assert abs((datetime.now(UTC) - given).total_seconds()) < 1.5
        await asyncio.sleep(1.1)
