"""The verifier that checks a JSON result against a JSON Schema."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from orchd.config.settings import VerifierSettings
from orchd.errors import ConfigurationError
from orchd.executors.port import RunContext, Success
from orchd.verifiers.port import Broken, Passed, Rejected, VerifierAnswer

ERRORS_MAX = 10
MESSAGE_CHARACTERS_MAX = 300


class SchemaVerifier:
    """Passes a result that is JSON and valid under the configured schema.

    The draft is the one that `$schema` names, 2020-12 without it. References to other
    documents are never fetched.

    Raises:
        ConfigurationError: the schema is no JSON, or no valid schema.
    """

    kind = "schema"
    inline = True

    def __init__(self, settings: VerifierSettings) -> None:
        self.name = settings.name
        schema = _parsed_schema(f"verifiers.{settings.name}.schema", settings.schema)
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        # An empty registry: the default one would fetch references from the network.
        self._validator = kind(schema, registry=Registry())

    async def verify(self, result: Success, context: RunContext) -> VerifierAnswer:
        """Check a result."""
        try:
            document = json.loads(result.output, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return Rejected(feedback=f"the result is not JSON: {error}")
        try:
            return self._verdict(document)
        except Unresolvable as error:
            return Broken(error=f"the schema of {self.name} refers to the unknown: {error}")
        except RecursionError:
            return Rejected(feedback="the result is nested too deeply to be checked")

    def _verdict(self, document: Any) -> VerifierAnswer:
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

    async def close(self) -> None:
        """Do nothing: nothing is kept."""


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
