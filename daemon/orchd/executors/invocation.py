"""Finds a user's Python code and makes answers of what it returns or raises."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from orchd.executors.port import (
    Deferred,
    ExecutorAnswer,
    Failure,
    Final,
    RunContext,
    Success,
)
from orchd.interfaces import FinalFailure, Later, Task, TaskStatus
from orchd.system import MICROSECONDS_PER_SECOND
from orchd.tasks.failures import ErrorClass

TRACEBACK_LINES_MAX = 12
ERROR_CHARACTERS_MAX = 4 * 1024
DEFAULT_FAILURE = "Execution failed"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CannotLoad(Exception):
    """A target cannot be imported, made or called."""


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """A callable of the user's, and how it wants to be called."""

    function: Callable[..., object]
    wants_context: bool
    """Whether it has a parameter named `context`."""
    only_context: bool
    """Whether that is its only parameter."""
    asynchronous: bool
    """Whether it is a coroutine function."""

    def call(self, context: RunContext, *arguments: object) -> object:
        """Call it; a coroutine function returns its coroutine."""
        positional = () if self.only_context else arguments
        if self.wants_context:
            return self.function(*positional, context=context)
        return self.function(*positional)


def load(target: str, method: str, arguments: Mapping[str, Any]) -> Invocation:
    """Import a target and return how to call it.

    Args:
        target: `package.module:name` of a class, an object or a function. Modules beside
            the place where the daemon was started are found too.
        method: the method of a class or object: `execute` or `verify`.
        arguments: keyword arguments for making an object of a class.

    Raises:
        CannotLoad: it cannot be imported or made, or has no such method.
    """
    directory = os.getcwd()
    if directory not in sys.path:
        sys.path.append(directory)
    module_name, _, name = target.partition(":")
    try:
        thing: Any = importlib.import_module(module_name)
        for part in name.split("."):
            thing = getattr(thing, part)
        if inspect.isclass(thing):
            thing = thing(**arguments)
    except (Exception, SystemExit) as error:
        raise CannotLoad(f"cannot load {target}: {describe(error)}") from error
    return invocation_of(thing, method)


def invocation_of(thing: object, method: str) -> Invocation:
    """Return how to call an object's method, or the object itself.

    Raises:
        CannotLoad: it has no such method and cannot be called.
    """
    function = getattr(thing, method, None)
    if not callable(function):
        function = thing
    if not callable(function):
        kind = type(thing).__name__
        raise CannotLoad(f"an object of type {kind} has no method {method}")
    names = _parameter_names(function)
    return Invocation(
        function=function,
        wants_context="context" in names,
        only_context=names == ["context"],
        asynchronous=_is_asynchronous(function),
    )


def _parameter_names(function: Callable[..., object]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _is_asynchronous(function: Callable[..., object]) -> bool:
    # An object may be called through a coroutine function of its class.
    call = vars(type(function)).get("__call__")
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def task_of(context: RunContext) -> Task:
    """Return the task as user code sees it during a run."""
    if context.task is not None:
        return context.task
    return Task(
        id=context.task_id,
        description=context.description,
        status=TaskStatus.IN_PROGRESS,
        attempts=context.attempt,
        metadata=dict(context.metadata),
    )


async def awaited(value: Awaitable[object]) -> object:
    """Await what user code returned; a cancellation of its own making is an error.

    Raises:
        asyncio.CancelledError: the caller itself was cancelled.
    """
    try:
        return await value
    except asyncio.CancelledError as cancelled:
        raise own_cancellation(cancelled) from cancelled


def own_cancellation(cancelled: asyncio.CancelledError) -> RuntimeError:
    """Return the error that a cancellation is which user code has made itself.

    Raises:
        asyncio.CancelledError: it was not the code's own; the caller was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise cancelled
    error = RuntimeError("the code cancelled itself")
    return error.with_traceback(cancelled.__traceback__)


def execution_answer(value: object) -> ExecutorAnswer:
    """Return the answer that an executor's return value stands for.

    A text is a success with that output. Anything with `success`, `output` and
    `confidence` counts as an `ExecutionResult`, wherever its class was defined.
    """
    if isinstance(value, str):
        return Success(output=value)
    success = getattr(value, "success", None)
    output = getattr(value, "output", None)
    if not isinstance(success, bool) or not hasattr(value, "confidence"):
        return _invalid(f"returned {type(value).__name__}, not an ExecutionResult")
    if not success:
        return Failure(error=str(getattr(value, "error", None) or DEFAULT_FAILURE))
    if not isinstance(output, str):
        return _invalid(f"returned an output of type {type(output).__name__}, not a str")
    metadata = getattr(value, "metadata", None)
    return Success(
        output=output,
        confidence=confidence_of(value),
        metadata=dict(metadata) if isinstance(metadata, Mapping) else {},
    )


def confidence_of(value: object) -> float | None:
    """Return the confidence of a result or a verdict, or None when it states none."""
    confidence = getattr(value, "confidence", None)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float):
        return None
    number = float(confidence)
    return number if math.isfinite(number) else None


def _invalid(what: str) -> Failure:
    return Failure(error=f"the executor {what}", error_class=ErrorClass.INVALID_RESULT)


def execution_error(error: BaseException, now: int) -> ExecutorAnswer:
    """Return the answer that an executor's exception stands for.

    Args:
        now: the present instant, for `Later` with a number of seconds.
    """
    if isinstance(error, FinalFailure):
        return Final(error=str(error.reason) or "the executor gave up for good")
    if isinstance(error, Later):
        return _deferred(error, now)
    return Failure(error=describe(error), error_class=ErrorClass.EXCEPTION)


def _deferred(later: Later, now: int) -> ExecutorAnswer:
    try:
        until = instant_of(later.when, now)
    except (TypeError, ValueError, OverflowError):
        return _invalid(
            f"raised Later({later.when!r}); it takes seconds from now, a timedelta or "
            "an aware datetime"
        )
    return Deferred(until=until, reason=str(later.reason))


def instant_of(when: object, now: int) -> int:
    """Return an instant from seconds from now, a timedelta or an aware datetime.

    Raises:
        TypeError, ValueError, OverflowError: it is none of these.
    """
    if isinstance(when, datetime):
        return (when - _EPOCH) // timedelta(microseconds=1)
    if isinstance(when, timedelta):
        when = when.total_seconds()
    if isinstance(when, bool) or not isinstance(when, int | float):
        raise TypeError("not a time")
    return now + round(max(0.0, float(when)) * MICROSECONDS_PER_SECOND)


def describe(error: BaseException) -> str:
    """Return type, message and last traceback lines of an error, whatever it is."""
    try:
        message = str(error)
    except BaseException as second:
        message = f"(its text cannot be made: {type(second).__name__})"
    head = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if len(head) > ERROR_CHARACTERS_MAX:
        head = head[:ERROR_CHARACTERS_MAX] + "…"
    # Formatting only the last frames keeps this cheap after an endless recursion.
    frames = traceback.format_tb(error.__traceback__, limit=-TRACEBACK_LINES_MAX // 2)
    lines = "".join(frames).splitlines()[-TRACEBACK_LINES_MAX:]
    return "\n".join([head, *lines])[: 2 * ERROR_CHARACTERS_MAX]
