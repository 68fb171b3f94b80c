"""Verifiers: a verdict is a pass or a refusal; anything else is a broken verifier."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.errors import ConfigurationError
from orchd.executors.port import Success
from orchd.system import RealSystem
from orchd.verifiers import child
from orchd.verifiers.adapter import ObjectVerifier
from orchd.verifiers.factory import build_verifier
from orchd.verifiers.port import Broken, Passed, Rejected, VerifierPort
from orchd.verifiers.schema import SchemaCheck, SchemaVerifier
from support import user_code
from support.contexts import run_context

TESTS = Path(user_code.__file__).parents[1]


def build(kind: str, **settings: Any) -> VerifierPort:
    configured = VerifierSettings(name="v", type=kind, **settings)
    worker = WorkerSettings(kill_grace_seconds=0.2)
    return build_verifier(configured, worker, RealSystem(), "state/worker")


async def verdict(verifier: VerifierPort, output: str) -> Any:
    try:
        return await verifier.verify(Success(output=output), run_context())
    finally:
        await verifier.close()


async def test_always_pass_passes() -> None:
    answer = await verdict(build("always-pass"), "anything")
    assert answer == Passed(feedback="Auto-passed", confidence=1.0)


def shell(script: str) -> VerifierPort:
    return build("command", argv=("sh", "-c", script))


async def test_a_command_sees_result_and_description() -> None:
    script = 'printf "%s|" "$(cat)"; cat "$ORCHD_TASK_DESCRIPTION_FILE"'
    answer = await verdict(shell(script), "the result")
    assert answer == Passed(feedback="the result|one two three")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo too short; exit 1", Rejected(feedback="too short")),
        ("echo silent >&2; exit 1", Rejected(feedback="exit code 1: silent")),
        ("exit 2", Broken(error="exit code 2")),
        ("exit 75", Broken(error="exit code 75")),
        ("kill -9 $$", Broken(error="killed by SIGKILL")),
    ],
)
async def test_the_exit_code_of_a_command_is_the_verdict(
    script: str, expected: object
) -> None:
    assert await verdict(shell(script), "x") == expected


async def test_a_command_that_cannot_start_is_broken() -> None:
    answer = await verdict(build("command", argv=("no-such-program",)), "x")
    assert isinstance(answer, Broken)


async def test_a_pattern_without_repeats_is_judged_at_once() -> None:
    verifier = build("regex", pattern="(yes|no)$")
    assert verifier.inline
    assert await verdict(verifier, "oh yes") == Passed()
    refused = await verdict(verifier, "maybe")
    assert isinstance(refused, Rejected)
    assert "(yes|no)$" in refused.feedback


async def test_a_pattern_with_repeats_is_judged_in_a_child() -> None:
    verifier = build("regex", pattern=r"^\d+$")
    assert not verifier.inline
    assert isinstance(await verdict(verifier, "123"), Passed)
    assert isinstance(await verdict(verifier, "12x"), Rejected)


async def test_a_catastrophic_pattern_is_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "JUDGING_SECONDS_MAX", 1.0)
    answer = await verdict(build("regex", pattern="(a+)+$"), "a" * 40 + "b")
    assert isinstance(answer, Broken)
    assert "longer than 1 s" in answer.error


SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"tags": {"type": "array", "items": {"type": "string"}}},
}


@pytest.mark.parametrize(
    ("output", "feedback"),
    [
        ("not json", "is not JSON"),
        ("NaN", "NaN is no JSON number"),
        ("[" * 100_000, "is not JSON"),
        ('{"name": 1, "tags": ["a", 2]}', "$.tags[1]: 2 is not of type 'string'"),
        ("{}", "$: 'name' is a required property"),
    ],
)
async def test_a_result_that_does_not_fit_the_schema_is_refused_with_reasons(
    output: str, feedback: str
) -> None:
    answer = await verdict(build("schema", schema=json.dumps(SCHEMA)), output)
    assert isinstance(answer, Rejected)
    assert feedback in answer.feedback


async def test_at_most_ten_reasons_are_listed() -> None:
    output = json.dumps({"name": 1, "tags": list(range(1000))})
    answer = await verdict(build("schema", schema=json.dumps(SCHEMA)), output)
    assert isinstance(answer, Rejected)
    assert len(answer.issues) == 11
    assert answer.issues[-1] == "and more"


async def test_a_result_that_fits_the_schema_passes() -> None:
    verifier = build("schema", schema=json.dumps(SCHEMA))
    assert await verdict(verifier, '{"name": "x"}') == Passed()


async def test_a_long_result_is_checked_in_a_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes a second or more, in which the daemon would do nothing else."""
    # This process cannot check anything any more; a child is another one.
    monkeypatch.delattr(SchemaCheck, "verdict")
    verifier = build("schema", schema=json.dumps(SCHEMA))
    assert isinstance(verifier, SchemaVerifier)
    assert verifier.inline
    tags = [str(number) for number in range(10_000)]
    longer = json.dumps({"name": "x", "tags": [*tags, 5]})
    refused = await verifier.verify(Success(output=longer), run_context())
    assert isinstance(refused, Rejected)
    assert refused.issues == ("$.tags[10000]: 5 is not of type 'string'",)
    fitting = json.dumps({"name": "x", "tags": tags})
    assert isinstance(await verdict(verifier, fitting), Passed)


@pytest.mark.parametrize(
    ("schema", "output"),
    [
        ({"uniqueItems": True}, json.dumps([{"a": number} for number in range(20_000)])),
        ({"pattern": "^(a+)+$"}, json.dumps("a" * 40 + "b")),
        (
            {"$defs": {"a": {"items": {"pattern": "^(a+)+$"}}}, "$ref": "#/$defs/a"},
            json.dumps(["a" * 40 + "b"]),
        ),
    ],
)
async def test_a_check_that_may_take_for_ever_is_broken_off(
    schema: object, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "JUDGING_SECONDS_MAX", 1.0)
    verifier = build("schema", schema=json.dumps(schema))
    assert not verifier.inline
    answer = await verdict(verifier, output)
    assert answer == Broken(error="the check against the schema of v took longer than 1 s")


async def test_a_schema_is_never_fetched_from_elsewhere() -> None:
    schema = json.dumps({"$ref": "http://127.0.0.1:9/schema.json"})
    assert isinstance(await verdict(build("schema", schema=schema), "{}"), Broken)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("schema", {}),
        ("schema", {"schema": "{"}),
        ("schema", {"schema": "[]"}),
        ("schema", {"schema": '{"type": "nonsense"}'}),
        ("regex", {}),
        ("regex", {"pattern": "("}),
        ("http", {}),
        ("nonsense", {}),
    ],
)
def test_unusable_settings_are_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"verifiers\.v"):
        build(kind, **settings)


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize(
    ("name", "output", "expected"),
    [
        ("judge", "one two three four", Passed(confidence=0.7)),
        (
            "judge",
            "other",
            Rejected(feedback="not in it", issues=("an issue",), confidence=0.7),
        ),
        ("judge_bool", "good", Passed()),
        ("judge_bool", "bad", Rejected(feedback="the verifier refused the result")),
    ],
)
async def test_python_code_may_judge(
    name: str,
    output: str,
    expected: object,
    isolation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    target = f"support.user_code:{name}"
    verifier = build("python", target=target, isolation=isolation)
    assert await verdict(verifier, output) == expected


@pytest.mark.parametrize("name", ["judge_raising", "judge_nonsense", "vanish", "missing"])
async def test_python_code_without_a_verdict_is_broken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    verifier = build("python", target=f"support.user_code:{name}")
    assert isinstance(await verdict(verifier, "x"), Broken)


async def test_an_object_of_the_users_judges_where_the_embedder_wants() -> None:
    async def call(blocking: Any) -> object:
        return blocking()

    verifier = ObjectVerifier("mine", user_code.judge_bool, call, RealSystem())
    assert await verdict(verifier, "good") == Passed()
    ill = ObjectVerifier("ill", user_code.judge_raising, call, RealSystem())
    assert isinstance(await verdict(ill, "good"), Broken)
