"""Claude for embedded use: blocking, made without a key, needing one when it is used."""

from __future__ import annotations

from typing import Any

from orchd.executors.claude import (
    DEFAULT_MODEL,
    MAX_TOKENS,
    ClaudeError,
    LazyClient,
    Question,
    Reply,
    ask,
    prompt_texts,
)
from orchd.executors.port import RunContext
from orchd.interfaces import (
    ExecutionResult,
    Executor,
    Later,
    Task,
    VerificationResult,
    Verifier,
)
from orchd.tasks.failures import DEPENDENCY_CLASSES
from orchd.verifiers.claude import DEFAULT_FEEDBACK, judge

CONFIDENCE = 0.85
VERIFIER_PAUSE_SECONDS = 2.0
"""How long a verdict waits when the API is down and names no time."""


class ClaudeExecutor(Executor):
    """Executes a task by asking Claude.

    The prompt is the description and, on a retry, the verifier's feedback. A refused, cut
    off or empty answer is a failure.

    Args:
        model: any model id that the API takes.
        max_tokens: longest answer.
        client_options: arguments of `anthropic.Anthropic`, such as `base_url`.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        max_tokens: int = MAX_TOKENS,
        **client_options: Any,
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self._client = LazyClient(**client_options)

    @property
    def client(self) -> Any:
        """The SDK's client; made when it is first asked for."""
        return self._client.get()

    @client.setter
    def client(self, client: Any) -> None:
        self._client.replace(client)

    def execute(self, task: Task, context: RunContext | None = None) -> ExecutionResult:
        """Ask the model; an error is a result without success, never an exception."""
        feedback = None if context is None else context.feedback
        question = Question(
            model=self.model,
            texts=prompt_texts(task.description, None, feedback),
            max_tokens=self.max_tokens,
        )
        try:
            reply = ask(self.client, question)
        except ClaudeError as error:
            return _failed(error)
        return _succeeded(reply)


def _succeeded(reply: Reply) -> ExecutionResult:
    return ExecutionResult(
        success=True,
        output=reply.text,
        confidence=CONFIDENCE,
        metadata={
            "model": reply.model,
            "tokens": reply.usage["output_tokens"],
            "usage": dict(reply.usage),
            "request_id": reply.request_id,
        },
    )


def _failed(error: ClaudeError) -> ExecutionResult:
    return ExecutionResult(
        success=False,
        output="",
        confidence=0.0,
        error=str(error),
        metadata={
            "error_class": error.error_class.value,
            "final": error.is_final,
            "retry_after_seconds": error.retry_after_seconds,
        },
    )


class ClaudeVerifier(Verifier):
    """Judges a result by asking Claude for a structured verdict.

    Without a verdict (the API is down, the answer was refused, cut off or unreadable) it
    raises: an orchestrator then asks again about the same result.

    Args:
        model: any model id that the API takes.
        client_options: arguments of `anthropic.Anthropic`, such as `base_url`.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **client_options: Any) -> None:
        self.model = model
        self._client = LazyClient(**client_options)

    @property
    def client(self) -> Any:
        """The SDK's client; made when it is first asked for."""
        return self._client.get()

    @client.setter
    def client(self, client: Any) -> None:
        self._client.replace(client)

    def verify(self, task: Task, result: ExecutionResult) -> VerificationResult:
        """Ask the model.

        Raises:
            Later: the API is down or limits the rate.
            ClaudeError: there is no verdict for another reason.
        """
        try:
            verdict = judge(self.client, self.model, task.description, result.output)
        except ClaudeError as error:
            if error.error_class not in DEPENDENCY_CLASSES:
                raise
            wait = error.retry_after_seconds
            seconds = VERIFIER_PAUSE_SECONDS if wait is None else wait
            raise Later(seconds, str(error)) from error
        feedback = verdict.feedback or ("" if verdict.passed else DEFAULT_FEEDBACK)
        return VerificationResult(
            passed=verdict.passed,
            confidence=verdict.confidence,
            feedback=feedback,
            issues=list(verdict.issues),
        )
