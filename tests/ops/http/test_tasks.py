"""Submitting, showing, listing, waiting and cancelling over HTTP."""

import asyncio
import hashlib
from typing import Any

import pytest

from support.api import API

FIELDS = {
    "id", "description", "payload", "status", "phase", "waiting", "queue", "priority",
    "executor", "verifiers", "runs", "attempts", "max_attempts", "crashes", "result",
    "error", "error_class", "feedback", "created_at", "updated_at", "run_at", "version",
    "metadata",
}  # fmt: skip


async def test_a_submitted_task_comes_out_with_every_documented_field(api: API) -> None:
    body = {
        "id": "täsk 1",
        "description": "count words",
        "payload": {"b": 1.5, "a": [10**30, None, "\u2028"]},
        "executor": "count",
        "verifiers": ["always-pass"],
        "queue": "night",
        "priority": 3.0,
        "delay": "1h",
        "timeout": "5m",
        "max_attempts": 7,
        "metadata": {"who": "me"},
    }
    answer = await api.http.post("/v1/tasks", json=body)
    assert answer.status_code == 201
    task = answer.json()
    assert task.keys() >= FIELDS
    same = ("id", "description", "payload", "executor", "queue", "max_attempts", "metadata")
    assert {name: task[name] for name in same} == {name: body[name] for name in same}
    assert (task["status"], task["priority"]) == ("pending", 3)
    assert task["waiting"] == {"reason": "time", "until": task["run_at"], "ref": None}
    shown = await api.http.get("/v1/tasks/t%C3%A4sk%201")
    assert shown.json() == task


async def test_the_same_submission_again_finds_the_task(api: API) -> None:
    body = {"id": "a", "description": "x", "delay": "1h"}
    first = await api.http.post("/v1/tasks", json=body)
    second = await api.http.post("/v1/tasks", json=body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()


async def test_the_same_id_for_another_task_is_a_conflict(api: API) -> None:
    await api.submit(id="a", description="x")
    answer = await api.http.post("/v1/tasks", json={"id": "a", "description": "y"})
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "conflict"


@pytest.mark.parametrize("place", ["header", "body"])
async def test_the_same_key_for_another_task_is_refused(api: API, place: str) -> None:
    async def post(description: str) -> Any:
        body = {"description": description}
        headers = {"Idempotency-Key": "k1"} if place == "header" else {}
        extra = {"idempotency_key": "k1"} if place == "body" else {}
        return await api.http.post("/v1/tasks", json=body | extra, headers=headers)

    first, again, other = await post("x"), await post("x"), await post("y")
    assert [first.status_code, again.status_code, other.status_code] == [201, 200, 422]
    assert again.json()["id"] == first.json()["id"]
    assert other.json()["errors"][0]["field"] == "idempotency_key"


async def test_a_thousand_posts_with_one_key_make_one_task(api: API) -> None:
    body = {"description": "once", "idempotency_key": "night"}
    posts = (api.http.post("/v1/tasks", json=body) for _ in range(1000))
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 999 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert len((await api.http.get("/v1/tasks")).json()["items"]) == 1


async def test_an_array_is_accepted_as_a_whole(api: API) -> None:
    bodies = [{"id": str(number), "description": "x"} for number in range(3)]
    answer = await api.http.post("/v1/tasks", json=bodies)
    assert answer.status_code == 201
    assert [task["id"] for task in answer.json()["items"]] == ["0", "1", "2"]
    assert (await api.http.post("/v1/tasks", json=bodies)).status_code == 200


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ({"id": "taken", "description": "other"}, 409),
        ({"idempotency_key": "key", "description": "other"}, 422),
        ({"id": "own", "idempotency_key": "key", "description": "other"}, 422),
        ({"id": "new-1", "description": "other"}, 409),
        ({"description": 5}, 422),
    ],
)
async def test_an_array_with_one_bad_task_changes_nothing(
    api: API, last: dict[str, Any], status: int
) -> None:
    await api.submit(id="taken")
    await api.submit(idempotency_key="key")
    position = await api.ledger.log_position()
    bodies = [{"id": f"new-{number}", "description": "x"} for number in range(5)]
    answer = await api.http.post("/v1/tasks", json=[*bodies, last])
    assert answer.status_code == status
    assert await api.ledger.log_position() == position


async def test_faults_in_an_array_name_their_place(api: API) -> None:
    bodies = [{"description": "x"}, {"description": 5}, {"priority": "high", "x": 1}]
    answer = await api.http.post("/v1/tasks", json=bodies)
    fields = [fault["field"] for fault in answer.json()["errors"]]
    assert fields == ["[1].description", "[2].priority", "[2].x"]


async def test_one_key_for_an_array_makes_the_whole_array_repeatable(api: API) -> None:
    bodies = [{"description": "same"}, {"description": "same"}]
    headers = {"Idempotency-Key": "batch"}
    first = await api.http.post("/v1/tasks", json=bodies, headers=headers)
    again = await api.http.post("/v1/tasks", json=bodies, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len({task["id"] for task in first.json()["items"]}) == 2


async def test_each_accepts_what_can_be_accepted(api: API) -> None:
    await api.submit(id="old", description="x")
    bodies = [
        {"id": "new", "description": "x"},
        {"id": "old", "description": "x"},
        {"id": "old", "description": "y"},
        {"id": "bad", "queue": ""},
    ]
    answer = await api.http.post("/v1/tasks?each=true", json=bodies)
    items = answer.json()["items"]
    assert [item["outcome"] for item in items] == [
        "created", "existing", "refused", "refused",
    ]  # fmt: skip
    assert (items[2]["code"], items[3]["errors"][0]["field"]) == ("conflict", "queue")


async def test_unknown_executors_and_verifiers_are_refused_with_the_known(
    api: API,
) -> None:
    body = {"description": "x", "executor": "nobody", "verifiers": ["nothing"]}
    answer = await api.http.post("/v1/tasks", json=body)
    assert answer.status_code == 422
    rules = {fault["field"]: fault["rule"] for fault in answer.json()["errors"]}
    assert "count, echo, fake" in rules["executor"]
    assert "always-pass" in rules["verifiers"]


async def test_an_executor_that_only_a_live_daemon_has_is_known(api: API) -> None:
    await api.claim("far-away")
    assert (await api.submit(executor="far-away"))["executor"] == "far-away"


async def test_lists_go_through_all_tasks_newest_first(api: API) -> None:
    ids = [(await api.submit(queue="q"))["id"] for _ in range(7)]
    await api.submit(queue="other")
    seen: list[str] = []
    query: dict[str, Any] = {"queue": "q", "limit": 3, "status": "pending,failed"}
    while True:
        page = (await api.http.get("/v1/tasks", params=query)).json()
        seen += [task["id"] for task in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == ids[::-1]


async def test_lists_show_the_first_kibibyte_and_say_so(api: API) -> None:
    task = await api.submit(payload="p" * 2000)
    (claimed,) = await api.claim("echo")
    result = "ä" * 5000
    await api.complete(claimed, result)
    (item,) = (await api.http.get("/v1/tasks")).json()["items"]
    assert item["result"] == "ä" * 512
    assert item["payload"] is None
    assert set(item["truncated"]) == {"result", "payload"}
    whole = (await api.http.get(f"/v1/tasks/{task['id']}")).json()
    assert (whole["result"], whole["truncated"]) == (result, [])


async def test_waiting_ends_when_the_task_does(api: API) -> None:
    task = await api.submit()
    path = f"/v1/tasks/{task['id']}"
    waiting = asyncio.create_task(api.http.get(path, params={"wait": "30s"}))
    (claimed,) = await api.claim("echo")
    await api.complete(claimed, "done")
    answer = (await waiting).json()
    assert (answer["status"], answer["result"]) == ("completed", "done")
    impatient = await api.submit()
    answer = await api.http.get(f"/v1/tasks/{impatient['id']}?wait=20ms")
    assert answer.json()["status"] == "pending"


async def test_cancelling_is_told_in_the_log_and_is_idempotent(api: API) -> None:
    task = await api.submit()
    path = f"/v1/tasks/{task['id']}"
    for _ in range(2):
        answer = await api.http.post(f"{path}/cancel", json={"reason": "no longer"})
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    events = (await api.http.get(f"{path}/events")).json()["items"]
    assert [event["type"] for event in events] == ["task.submitted", "task.cancelled"]
    assert events[1]["meta"]["reason"] == "no longer"
    assert events[0]["meta"]["actor"] == "http"


async def test_a_finished_task_cannot_be_cancelled(api: API) -> None:
    await api.submit(id="a")
    (claimed,) = await api.claim("echo")
    await api.complete(claimed, "done")
    assert (await api.http.post("/v1/tasks/a/cancel")).status_code == 409
    assert (await api.http.post("/v1/tasks/b/cancel")).status_code == 404


async def test_the_trace_context_of_the_request_is_taken_over(api: API) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = {"traceparent": trace}
    await api.http.post("/v1/tasks", json={"id": "a", "description": "x"}, headers=headers)
    state = await api.ledger.task("a")
    assert state is not None
    assert state.traceparent == trace


async def test_why_names_what_a_task_waits_for(api: API) -> None:
    await api.submit(id="a", queue="night")
    reasons = (await api.http.get("/v1/tasks/a/why")).json()["reasons"]
    assert "no daemon is running" in reasons[0]
    await api.claim("count")
    shown = (await api.http.get("/v1/tasks/a")).json()
    assert shown["waiting"]["reason"] == "executor missing"
    await api.http.post("/v1/queues/night/pause")
    shown = (await api.http.get("/v1/tasks/a")).json()
    assert shown["waiting"] == {"reason": "queue paused", "until": None, "ref": "night"}
    reasons = (await api.http.get("/v1/tasks/a/why")).json()["reasons"]
    assert "orchd queue resume night" in " ".join(reasons)


async def test_the_hash_of_a_submission_ignores_what_only_names_it(api: API) -> None:
    await api.submit(id="a", description="x")
    state = await api.ledger.task("a")
    assert state is not None
    expected = hashlib.sha256(b'{"description":"x"}').hexdigest()
    assert state.body_hash == expected
