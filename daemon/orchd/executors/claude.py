"""Claude as an executor, and the one module that speaks to the anthropic SDK.

The SDK takes seconds to import, so it is imported where it is first needed, always in a
thread. It never retries on its own: waiting is the engine's business, and whatever was
sent again might be paid for again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

import msgspec

from orchd.config.settings import ExecutorSettings, WorkerSettings
from orchd.executors.port import ExecutorAnswer, Failure, Final, RunContext, Success
from orchd.executors.threads import in_thread
from orchd.system import System
from orchd.tasks.failures import ErrorClass

DEFAULT_MODEL = "claude-sonnet-5-5"
MAX_TOKENS = 8_192
TIMEOUT_SECONDS = 600.0
COMPLETE_STOPS = frozenset({"end_turn", "stop_sequence"})
"""The stop reasons of an answer that is whole."""

_CLASS_OF_TYPE = {
    "api_error": ErrorClass.DEPENDENCY,
    "authentication_error": ErrorClass.UNAUTHORIZED,
    "billing_error": ErrorClass.UNAUTHORIZED,
    "invalid_request_error": ErrorClass.INVALID_REQUEST,
    "not_found_error": ErrorClass.INVALID_REQUEST,
    "overloaded_error": ErrorClass.DEPENDENCY,
    "permission_error": ErrorClass.UNAUTHORIZED,
    "rate_limit_error": ErrorClass.RATE_LIMITED,
    "request_too_large": ErrorClass.INVALID_REQUEST,
    "timeout_error": ErrorClass.DEPENDENCY,
}
_CLASS_OF_STATUS = {
    400: ErrorClass.INVALID_REQUEST,
    401: ErrorClass.UNAUTHORIZED,
    402: ErrorClass.UNAUTHORIZED,
    403: ErrorClass.UNAUTHORIZED,
    404: ErrorClass.INVALID_REQUEST,
    408: ErrorClass.DEPENDENCY,
    409: ErrorClass.DEPENDENCY,
    413: ErrorClass.INVALID_REQUEST,
    422: ErrorClass.INVALID_REQUEST,
    429: ErrorClass.RATE_LIMITED,
}


class ClaudeError(Exception):
    """Claude gave no usable answer.

    Attributes:
        error_class: what kind of failure it is.
        retry_after_seconds: how long the other side asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        error_class: ErrorClass,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_final(self) -> bool:
        """Whether the same request can never succeed."""
        return self.error_class is ErrorClass.INVALID_REQUEST


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: one user turn of text blocks."""

    model: str
    texts: tuple[str, ...]
    max_tokens: int = MAX_TOKENS
    system: str | None = None
    schema: Mapping[str, Any] | None = None
    """A JSON Schema that the answer has to follow."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer and what it cost."""

    text: str
    model: str
    request_id: str
    usage: Mapping[str, int]


class LazyClient:
    """The SDK's client, made when it is first needed.

    Args:
        options: arguments of `anthropic.Anthropic`, such as `base_url` or `api_key`;
            without them the SDK reads its environment variables.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._client: Any = None

    def get(self) -> Any:
        """Return the client; the first call imports the SDK, which takes seconds.

        Raises:
            ClaudeError: there are no credentials.
        """
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def replace(self, client: Any) -> None:
        """Use this client from now on."""
        with self._lock:
            self._client = client

    def close(self) -> None:
        """Close the client's connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _make(self) -> Any:
        import anthropic

        try:
            client = anthropic.Anthropic(
                max_retries=0, timeout=TIMEOUT_SECONDS, **self._options
            )
        except anthropic.AnthropicError as error:
            raise ClaudeError(str(error), ErrorClass.UNAUTHORIZED) from error
        # Embedded users do not close what they use; its connections go with the owner.
        weakref.finalize(self, client.close)
        return client


def ask(client: Any, question: Question) -> Reply:
    """Ask Claude and wait for the whole answer; blocks.

    Raises:
        ClaudeError: there was no answer, or it was refused, cut off or empty.
    """
    try:
        message = client.messages.create(**_arguments(question))
    except Exception as error:
        raise claude_error(error) from error
    return _checked(message)


def _arguments(question: Question) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in question.texts]
    arguments: dict[str, Any] = {
        "model": question.model,
        "max_tokens": question.max_tokens,
        "messages": [{"role": "user", "content": content}],
    }
    if question.system is not None:
        arguments["system"] = question.system
    if question.schema is not None:
        output = {"type": "json_schema", "schema": question.schema}
        arguments["output_config"] = {"format": output}
    return arguments


def _checked(message: Any) -> Reply:
    reason = message.stop_reason
    text = "".join(block.text for block in message.content if block.type == "text")
    if reason == "refusal":
        said = f": {text}" if text else ""
        raise ClaudeError(f"the model declined to answer{said}", ErrorClass.MODEL_REFUSED)
    if reason not in COMPLETE_STOPS:
        raise ClaudeError(
            f"the answer is not whole: it stopped with {reason} after "
            f"{message.usage.output_tokens} tokens",
            ErrorClass.TRUNCATED,
        )
    if not text.strip():
        raise ClaudeError("the answer holds no text", ErrorClass.INVALID_RESULT)
    return Reply(
        text=text,
        model=str(message.model),
        request_id=str(getattr(message, "_request_id", None) or message.id),
        usage=_usage(message.usage),
    )


def _usage(usage: Any) -> dict[str, int]:
    names = (
        "input_tokens",
        "output_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
    )
    return {name: getattr(usage, name, None) or 0 for name in names}


def claude_error(error: Exception) -> ClaudeError:
    """Return what an error of the SDK means: by the body's type, then by the status."""
    import anthropic

    text = f"{type(error).__name__}: {error}"
    if isinstance(error, anthropic.APIStatusError):
        return ClaudeError(text, _class_of(error), _retry_after(error))
    if isinstance(error, anthropic.APIConnectionError):
        return ClaudeError(text, ErrorClass.DEPENDENCY)
    if isinstance(error, anthropic.AnthropicError) or "authentication" in str(error):
        # Without any credentials the SDK refuses before it sends anything.
        return ClaudeError(text, ErrorClass.UNAUTHORIZED)
    return ClaudeError(text, ErrorClass.EXCEPTION)


def _class_of(error: Any) -> ErrorClass:
    named = _CLASS_OF_TYPE.get(error.type or "")
    if named is not None:
        return named
    return _CLASS_OF_STATUS.get(error.status_code, ErrorClass.DEPENDENCY)


def _retry_after(error: Any) -> float | None:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "")))
    except ValueError:
        return None


def prompt_texts(
    description: str, payload: str | None, feedback: str | None
) -> tuple[str, ...]:
    """Return the text blocks of a prompt: the task, then what a verifier said of it."""
    texts = [description] if description.strip() else []
    if payload is not None:
        texts.append(f"<input>\n{payload}\n</input>")
    if feedback:
        texts.append(
            "An earlier answer to this was refused. Answer again from the start, and "
            f"mind the reviewer's feedback:\n<feedback>\n{feedback}\n</feedback>"
        )
    return tuple(texts)


class ClaudeExecutor:
    """Answers tasks with a model of Anthropic's."""

    kind = "claude"

    def __init__(self, settings: ExecutorSettings) -> None:
        self.name = settings.name
        self.exclusive = settings.exclusive
        self._model = settings.model or DEFAULT_MODEL
        self._max_tokens = int(_number(settings.options.get("max_tokens"), MAX_TOKENS))
        self._system_prompt = _text(settings.options.get("system"))
        self._client = LazyClient(**client_options(settings.options))

    async def execute(self, context: RunContext) -> ExecutorAnswer:
        """Ask the model; the description, payload and feedback are the prompt."""
        try:
            reply = await in_thread(lambda: self._ask(context), self.name)
        except ClaudeError as error:
            return answer_of(error)
        metadata = {
            "model": reply.model,
            "request_id": reply.request_id,
            "usage": reply.usage,
        }
        return Success(output=reply.text, metadata=metadata)

    def _ask(self, context: RunContext) -> Reply:
        question = Question(
            model=self._model,
            texts=prompt_texts(context.description, context.payload_text, context.feedback),
            max_tokens=self._max_tokens,
            system=self._system_prompt,
        )
        return ask(self._client.get(), question)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()


def answer_of(error: ClaudeError) -> Failure | Final:
    """Return what an error means for the task."""
    if error.is_final:
        return Final(error=str(error), error_class=error.error_class)
    return Failure(
        error=str(error),
        error_class=error.error_class,
        retry_after_seconds=error.retry_after_seconds,
    )


def client_options(options: Mapping[str, object]) -> dict[str, object]:
    """Return what of an executor's options is meant for the SDK's client."""
    return {name: options[name] for name in ("base_url", "api_key") if name in options}


def _number(value: object, default: int) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable else default  # type: ignore[arg-type]  # checked above


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def build(
    settings: ExecutorSettings, worker: WorkerSettings, system: System
) -> ClaudeExecutor:
    """Return the executor that `settings` describe."""
    del worker, system
    return ClaudeExecutor(settings)
