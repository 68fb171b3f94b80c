"""The built-in executors, and what the factory refuses."""

import subprocess
import sys
from typing import Any

import pytest

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.errors import ConfigurationError
from orchd.executors.factory import build_executor
from orchd.executors.port import ExecutorPort, Failure, Success
from orchd.system import RealSystem
from support.contexts import run_context


def build(kind: str, **settings: Any) -> ExecutorPort:
    configured = ExecutorSettings(name="x", type=kind, **settings)
    return build_executor(configured, WorkerSettings(), RealSystem(), "state/worker")


async def test_fake_answers_with_the_description() -> None:
    answer = await build("fake").execute(run_context(description="Write a haiku"))
    assert answer == Success(output="Fake result for: Write a haiku", confidence=0.9)


@pytest.mark.parametrize(
    ("payload", "attempt", "fails"),
    [
        ({"success": False}, 1, True),
        ({"fail_times": 2}, 2, True),
        ({"fail_times": 2}, 3, False),
        ({"fail_times": True}, 1, False),
        (["success"], 1, False),
    ],
)
async def test_a_payload_steers_fake(payload: Any, attempt: int, fails: bool) -> None:
    answer = await build("fake").execute(run_context(payload=payload, attempt=attempt))
    assert isinstance(answer, Failure) is fails


async def test_echo_answers_with_the_description_itself() -> None:
    assert await build("echo").execute(run_context()) == Success(output="one two three")


@pytest.mark.parametrize(
    ("kind", "settings", "rule"),
    [
        ("http", {}, "http is not available in this release"),
        ("nonsense", {}, "must be one of"),
        ("command", {}, "argv must name a program"),
        ("command", {"argv": ("a", "b\0")}, "NUL"),
        ("python", {"target": "no-target"}, "package.module:name"),
        ("python", {"target": "a:b", "isolation": "none"}, "process or thread"),
    ],
)
def test_unusable_settings_are_refused(
    kind: str, settings: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ConfigurationError, match=rule):
        build(kind, **settings)


def test_the_factories_import_only_what_is_used() -> None:
    code = (
        "import sys, orchd.executors.factory, orchd.verifiers.factory;"
        "assert not {'anthropic', 'jsonschema', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
