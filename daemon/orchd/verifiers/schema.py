"""The verifier that checks a JSON result against a JSON Schema."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from orchd.config.settings import VerifierSettings, WorkerSettings
from orchd.errors import ConfigurationError
from orchd.executors.port import RunContext, Success
from orchd.interfaces import ExecutionResult, Task, VerificationResult
from orchd.system import System
from orchd.verifiers.child import ChildJudge
from orchd.verifiers.port import (
    INLINE_CHARACTERS_MAX,
    Broken,
    Passed,
    Rejected,
    VerifierAnswer,
)

ERRORS_MAX = 10
MESSAGE_CHARACTERS_MAX = 300
_UNBOUNDED = frozenset(
    {
        "$dynamicRef",
        "$recursiveRef",
        "$ref",
        "pattern",
        "patternProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
        "uniqueItems",
    }
)
"""Words that repeat work: searches that backtrack, pairs, and schemas within schemas."""


class SchemaVerifier:
    """Passes a result that is JSON and valid under the configured schema.

    The draft is the one that `$schema` names, 2020-12 without it. References to other
    documents are never fetched. A check cannot be interrupted, so long results, and all
    results under a schema that may take for ever, are checked in a child process.

    Raises:
        ConfigurationError: the schema is no JSON, or no valid schema.
    """

    kind = "schema"

    def __init__(
        self,
        settings: VerifierSettings,
        worker: WorkerSettings,
        system: System,
        mark: str,
    ) -> None:
        self.name = settings.name
        key = f"verifiers.{settings.name}.schema"
        self.inline = is_bounded(_parsed_schema(key, settings.schema))
        arguments = {"name": settings.name, "schema": settings.schema or ""}
        self._check = SchemaCheck(**arguments)
        self._child = ChildJudge(
            settings.name,
            "orchd.verifiers.schema:SchemaCheck",
            arguments,
            "the check against the schema",
            worker=worker,
            system=system,
            mark=mark,
        )

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Check a result."""
        if self.inline and len(result.output) <= INLINE_CHARACTERS_MAX:
            try:
                return self._check.verdict(result.output)
            except UnknownReference as error:
                return Broken(error=str(error))
        return await self._child.verify(result, context)

    async def close(self) -> None:
        """Stop the warm children."""
        await self._child.close()


def is_bounded(schema: Any) -> bool:
    """Tell whether a check takes time in proportion to the document, whatever it is.

    Decided on the safe side, by the words that the schema holds anywhere.
    """
    if isinstance(schema, dict):
        return not _UNBOUNDED & schema.keys() and all(map(is_bounded, schema.values()))
    return not isinstance(schema, list) or all(map(is_bounded, schema))


class UnknownReference(Exception):
    """The schema refers to what it does not hold."""


class SchemaCheck:
    """The check itself, as a verifier that a child can run.

    Args:
        name: the verifier's name, for messages.
        schema: the schema as JSON text, checked before.
    """

    def __init__(self, name: str, schema: str) -> None:
        self._name = name
        parsed = json.loads(schema)
        kind = validator_for(parsed, default=jsonschema.Draft202012Validator)
        # An empty registry: the default one would fetch references from the network.
        self._validator = kind(parsed, registry=Registry())

    def verdict(self, output: str) -> Passed | Rejected:
        """Judge a text; raises `UnknownReference`."""
        try:
            document = json.loads(output, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return Rejected(feedback=f"the result is not JSON: {error}")
        try:
            return self._judged(document)
        except Unresolvable as error:
            message = f"the schema of {self._name} refers to the unknown: {error}"
            raise UnknownReference(message) from error
        except RecursionError:
            return Rejected(feedback="the result is nested too deeply to be checked")

    def _judged(self, document: Any) -> Passed | Rejected:
        issues: list[str] = []
        for error in self._validator.iter_errors(document):
            if len(issues) == ERRORS_MAX:
                issues.append("and more")
                break
            issues.append(_described(error))
        if not issues:
            return Passed()
        lines = "\n".join(f"- {issue}" for issue in issues)
        feedback = f"the result does not fit the JSON Schema:\n{lines}"
        return Rejected(feedback=feedback, issues=tuple(issues))

    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        """Judge a result, in a child."""
        verdict = self.verdict(result.output)
        return VerificationResult(
            passed=isinstance(verdict, Passed),
            confidence=1.0,
            feedback=verdict.feedback,
            issues=list(verdict.issues) if isinstance(verdict, Rejected) else [],
        )


def _parsed_schema(key: str, text: str | None) -> Any:
    if text is None:
        raise ConfigurationError(key, "must be set (or schema_file)")
    try:
        schema = json.loads(text)
        if not isinstance(schema, dict | bool):
            raise ConfigurationError(key, "must be an object", type(schema).__name__)
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        if isinstance(schema, dict):
            kind.check_schema(schema)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(key, f"must be JSON: {error}") from error
    except SchemaError as error:
        rule = f"must be a valid JSON Schema: {error.message} at {error.json_path}"
        raise ConfigurationError(key, rule) from error
    return schema


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _described(error: ValidationError) -> str:
    message = error.message
    if len(message) > MESSAGE_CHARACTERS_MAX:
        half = MESSAGE_CHARACTERS_MAX // 2
        message = f"{message[:half]} … {message[-half:]}"
    return f"{error.json_path}: {message}"
