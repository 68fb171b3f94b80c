"""Claude as executor and verifier, against a server that answers as scripted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchd import (
    ClaudeExecutor,
    ClaudeVerifier,
    ExecutionResult,
    InMemoryTaskStore,
    Later,
    Orchestrator,
    Task,
    TaskStatus,
)
from orchd.config.settings import ExecutorSettings, VerifierSettings, WorkerSettings
from orchd.executors.claude import ClaudeError
from orchd.executors.factory import build_executor
from orchd.executors.port import Failure, Final, Success
from orchd.system import RealSystem
from orchd.tasks.failures import ErrorClass
from orchd.verifiers.factory import build_verifier
from orchd.verifiers.port import Broken, Passed, Rejected
from support.anthropic_server import AnthropicServer, running_server
from support.contexts import run_context

TASK = Task(id="a", description="Write a haiku")
RESULT = ExecutionResult(True, "an old pond", 0.8)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnthropicServer]:
    with running_server() as running:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", running.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
        yield running


def error_class(result: ExecutionResult) -> str:
    assert not result.success
    assert result.output == ""
    return str(result.metadata["error_class"])


# --- the executor ---------------------------------------------------------------------


def test_the_description_is_the_prompt_and_the_text_is_the_output(
    server: AnthropicServer,
) -> None:
    server.says("an old pond", output_tokens=4)
    result = ClaudeExecutor("claude-any-model").execute(TASK)
    assert (result.success, result.output, result.confidence) == (True, "an old pond", 0.85)
    assert result.metadata["tokens"] == 4
    (request,) = server.requests
    assert request.texts == ["Write a haiku"]
    assert request.body["model"] == "claude-any-model"
    assert "test-key" in request.headers.get("authorization", "") + request.headers.get(
        "x-api-key", ""
    )


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
def test_an_answer_that_was_cut_off_is_a_failure(
    server: AnthropicServer, reason: str
) -> None:
    server.says("an old", stop_reason=reason)
    result = ClaudeExecutor().execute(TASK)
    assert error_class(result) == ErrorClass.TRUNCATED
    assert reason in str(result.error)


def test_a_refusal_is_a_failure(server: AnthropicServer) -> None:
    server.says("I would rather not", stop_reason="refusal")
    assert error_class(ClaudeExecutor().execute(TASK)) == ErrorClass.MODEL_REFUSED
    server.says(None, stop_reason="refusal")
    assert error_class(ClaudeExecutor().execute(TASK)) == ErrorClass.MODEL_REFUSED


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_an_empty_answer_is_a_failure(server: AnthropicServer, text: str | None) -> None:
    server.says(text)
    assert error_class(ClaudeExecutor().execute(TASK)) == ErrorClass.INVALID_RESULT


@pytest.mark.parametrize(
    ("error_type", "status", "expected", "final"),
    [
        ("overloaded_error", 529, ErrorClass.DEPENDENCY, False),
        ("overloaded_error", 400, ErrorClass.DEPENDENCY, False),
        ("api_error", 500, ErrorClass.DEPENDENCY, False),
        ("rate_limit_error", 429, ErrorClass.RATE_LIMITED, False),
        ("something_new", 429, ErrorClass.RATE_LIMITED, False),
        ("something_new", 503, ErrorClass.DEPENDENCY, False),
        ("authentication_error", 401, ErrorClass.UNAUTHORIZED, False),
        ("billing_error", 402, ErrorClass.UNAUTHORIZED, False),
        ("permission_error", 403, ErrorClass.UNAUTHORIZED, False),
        ("invalid_request_error", 400, ErrorClass.INVALID_REQUEST, True),
        ("not_found_error", 404, ErrorClass.INVALID_REQUEST, True),
        ("request_too_large", 413, ErrorClass.INVALID_REQUEST, True),
        ("something_new", 422, ErrorClass.INVALID_REQUEST, True),
    ],
)
def test_an_error_is_classed_by_its_type_first_and_sent_once(
    server: AnthropicServer,
    error_type: str,
    status: int,
    expected: ErrorClass,
    final: bool,
) -> None:
    server.fails(error_type, status=status)
    result = ClaudeExecutor().execute(TASK)
    assert error_class(result) == expected
    assert result.metadata["final"] is final
    assert len(server.requests) == 1


def test_the_wait_that_the_server_asks_for_is_passed_on(server: AnthropicServer) -> None:
    server.fails("rate_limit_error", retry_after="17")
    assert ClaudeExecutor().execute(TASK).metadata["retry_after_seconds"] == 17.0


def test_a_server_that_is_not_there_is_a_dependency_failure() -> None:
    with running_server() as gone:
        url = gone.url
    result = ClaudeExecutor(base_url=url, api_key="key").execute(TASK)
    assert error_class(result) == ErrorClass.DEPENDENCY


def test_no_key_is_needed_until_it_is_used_and_then_it_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    executor = ClaudeExecutor(base_url="http://127.0.0.1:9")
    assert error_class(executor.execute(TASK)) == ErrorClass.UNAUTHORIZED


def test_the_client_can_be_looked_at_and_replaced(server: AnthropicServer) -> None:
    executor = ClaudeExecutor()
    assert executor.client is executor.client
    assert executor.client.max_retries == 0
    replaced: Any = object()
    executor.client = replaced
    assert executor.client is replaced


# --- the verifier ---------------------------------------------------------------------


def test_a_verdict_is_structured_and_asked_for_with_a_schema(
    server: AnthropicServer,
) -> None:
    server.judges(False, "PASSED: yes, said nobody")
    verdict = ClaudeVerifier().verify(TASK, RESULT)
    assert not verdict.passed
    assert verdict.feedback == "PASSED: yes, said nobody"
    assert verdict.issues == ["an issue"]
    body = server.requests[0].body
    assert body["output_config"]["format"]["type"] == "json_schema"
    task, result = server.requests[0].texts
    assert "Write a haiku" in task
    assert "an old pond" in result

    server.judges(True, "good")
    assert ClaudeVerifier().verify(TASK, RESULT).passed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"passed": true, "confidence": 1, "feed', "max_tokens"),
        ('{"passed": true, "confidence": 1, "feedback": "", "issues": []}', "refusal"),
        ("PASSED: yes", "end_turn"),
        ('{"passed": "yes", "confidence": 1, "feedback": "", "issues": []}', "end_turn"),
        ('{"passed": true, "confidence": 7, "feedback": "", "issues": []}', "end_turn"),
        ("[]", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_what_is_no_verdict_is_neither_a_pass_nor_a_refusal(
    server: AnthropicServer, text: str | None, reason: str
) -> None:
    server.says(text, stop_reason=reason)
    with pytest.raises(ClaudeError):
        ClaudeVerifier().verify(TASK, RESULT)


def test_a_verifier_that_is_down_asks_for_a_later_time(server: AnthropicServer) -> None:
    server.fails("overloaded_error", retry_after="3")
    with pytest.raises(Later) as caught:
        ClaudeVerifier().verify(TASK, RESULT)
    assert caught.value.when == 3.0


# --- both under an orchestrator -------------------------------------------------------


def test_feedback_reaches_the_model_apart_from_the_task(server: AnthropicServer) -> None:
    server.says("one")
    server.judges(False, "seventeen syllables, please")
    server.says("two")
    server.judges(True)
    store = InMemoryTaskStore([Task("a", "Write a haiku")])
    Orchestrator(store, ClaudeExecutor(), ClaudeVerifier()).run()
    assert store.tasks["a"].result == "two"
    description, feedback = server.requests[2].texts
    assert description == "Write a haiku"
    assert "<feedback>\nseventeen syllables, please\n</feedback>" in feedback


def test_a_verifier_outage_costs_no_second_execution(server: AnthropicServer) -> None:
    server.says("paid for")
    server.fails("overloaded_error", retry_after="0")
    server.says("no verdict at all")
    server.judges(True)
    store = InMemoryTaskStore([Task("a", "Write a haiku")])
    stats = Orchestrator(store, ClaudeExecutor(), ClaudeVerifier()).run()
    assert (stats.executions, len(server.requests)) == (1, 4)
    assert (store.tasks["a"].result, store.tasks["a"].attempts) == ("paid for", 1)


def test_a_request_that_can_never_succeed_is_sent_once(server: AnthropicServer) -> None:
    server.fails("invalid_request_error")
    store = InMemoryTaskStore([Task("a", "Write a haiku")])
    Orchestrator(store, ClaudeExecutor()).run()
    assert len(server.requests) == 1
    assert store.tasks["a"].status is TaskStatus.FAILED


# --- the daemon's ports ---------------------------------------------------------------


async def test_the_daemons_executor_answers_by_the_same_rules(
    server: AnthropicServer,
) -> None:
    settings = ExecutorSettings(
        name="claude", type="claude", model="claude-m", options={"max_tokens": 99}
    )
    executor = build_executor(settings, WorkerSettings(), RealSystem(), "mark")
    context = run_context(description="Write", feedback="shorter")
    server.says("text")
    answer = await executor.execute(context)
    assert isinstance(answer, Success)
    assert answer.metadata["usage"]["output_tokens"] == 5
    assert server.requests[0].body["max_tokens"] == 99
    assert "shorter" in server.requests[0].texts[1]
    server.fails("rate_limit_error", retry_after="9")
    limited = await executor.execute(context)
    assert isinstance(limited, Failure)
    assert (limited.error_class, limited.retry_after_seconds) == (
        ErrorClass.RATE_LIMITED,
        9.0,
    )
    server.fails("invalid_request_error")
    assert isinstance(await executor.execute(context), Final)
    await executor.close()


async def test_the_daemons_verifier_answers_by_the_same_rules(
    server: AnthropicServer,
) -> None:
    settings = VerifierSettings(name="judge", type="claude")
    verifier = build_verifier(settings, WorkerSettings(), RealSystem(), "mark")
    context = run_context(description="Write")
    success = Success(output="text")
    server.judges(True)
    assert isinstance(await verifier.verify(success, context), Passed)
    server.judges(False, "no")
    rejected = await verifier.verify(success, context)
    assert isinstance(rejected, Rejected)
    assert (rejected.feedback, rejected.issues) == ("no", ("an issue",))
    server.fails("overloaded_error", retry_after="4")
    broken = await verifier.verify(success, context)
    assert isinstance(broken, Broken)
    assert broken.retry_after_seconds == 4.0
    server.says("PASSED: yes")
    assert isinstance(await verifier.verify(success, context), Broken)
    await verifier.close()
