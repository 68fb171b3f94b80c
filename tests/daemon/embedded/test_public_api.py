"""What `from orchd import …` offers."""

import inspect
import subprocess
import sys

import pytest

import orchd


def test_the_public_names_are_sorted_few_and_there() -> None:
    assert orchd.__all__ == sorted(orchd.__all__)
    assert len(orchd.__all__) <= 30
    for name in orchd.__all__:
        assert getattr(orchd, name).__name__ == name
    assert set(orchd.__all__) <= set(dir(orchd))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Conductor'"):
        orchd.Conductor  # noqa: B018  # the access itself is what is tested


def test_embedded_use_imports_neither_the_database_nor_the_model_client() -> None:
    program = (
        "import sys, orchd\n"
        "orchd.Orchestrator(orchd.InMemoryTaskStore(), orchd.FakeExecutor()).run()\n"
        "orchd.ClaudeExecutor()\n"
        "print([m for m in ('sqlalchemy', 'anthropic') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


PARAMETERS = {
    "Task": "id description status=PENDING result=None attempts=0 metadata",
    "ExecutionResult": "success output confidence error=None metadata",
    "VerificationResult": "passed confidence feedback issues",
    "Orchestrator": "task_store executor verifier=None safety=None config=None",
    "OrchestratorConfig": (
        "verify_results=True retry_on_failure=True max_attempts_per_task=3 "
        "pause_between_tasks=0.0"
    ),
    "OrchestratorBuilder": "",
    "InMemoryTaskStore": "tasks=None",
    "InMemoryTaskStore.add": "self task_id description",
    "JSONTaskStore": "filepath='tasks.json'",
    "JSONTaskStore.add": "self description kwargs",
    "FakeExecutor": "success=True output='Fake result'",
    "AlwaysPassVerifier": "",
    "SimpleCircuitBreaker": "max_iterations=100 max_consecutive_failures=5",
    "TaskStore.get_next": "self",
    "TaskStore.has_pending": "self",
    "TaskStore.update_status": "self task_id status",
    "TaskStore.save_result": "self task_id result",
    "TaskStore.increment_attempts": "self task_id",
    "TaskStore.get_task": "self task_id",
    "Executor.execute": "self task",
    "Verifier.verify": "self task result",
    "SafetyCheck.allow_continue": "self",
    "SafetyCheck.record_success": "self",
    "SafetyCheck.record_failure": "self error",
    "SafetyCheck.get_stop_reason": "self",
    "Orchestrator.add_hook": "self event hook",
    "ParallelOrchestrator": "args max_workers=3 kwargs",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_parameters_are_those_of_the_teaching_text(name: str) -> None:
    thing = orchd
    for part in name.split("."):
        thing = getattr(thing, part)
    shown = " ".join(map(_shown, inspect.signature(thing).parameters.values()))  # type: ignore[arg-type]  # a class or function
    assert shown == PARAMETERS[name]


def _shown(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is inspect.Parameter.empty or "factory" in repr(default):
        return parameter.name
    return f"{parameter.name}={getattr(default, 'name', repr(default))}"


def test_every_step_of_the_builder_returns_the_builder() -> None:
    builder = orchd.OrchestratorBuilder()
    steps = [n for n in dir(builder) if n.startswith(("with_", "on_"))]
    assert {
        "with_task_store",
        "with_executor",
        "with_verifier",
        "with_safety",
        "with_config",
        "on_task_start",
        "on_task_complete",
        "on_task_fail",
        "on_task_retry",
    } <= set(steps)
    for step in steps:
        assert getattr(builder, step)(object()) is builder


def test_the_builder_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"^TaskStore is required$"):
        orchd.OrchestratorBuilder().build()
    store = orchd.InMemoryTaskStore()
    with pytest.raises(ValueError, match=r"^Executor is required$"):
        orchd.OrchestratorBuilder().with_task_store(store).build()
