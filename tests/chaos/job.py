"""A storm's tasks: made from a seed, handed in and cancelled while daemons come and go."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from chaos.fleet import Daemon, Fleet
from orchd.client import Client, Conflict, Unavailable, Unreachable

CHUNK_TASKS = 200
ANSWER_SECONDS = 10.0
PAUSE_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Order:
    """One task to hand in, and how it has to end."""

    id: str
    executor: str
    seconds: float
    verb: str = "ok"
    cancel: str = ""
    """`waiting` or `running`: when it is to be cancelled, if it is."""
    max_attempts: int = 3
    queue: str = "default"
    key: str = ""
    """Its idempotency key, if it has one."""

    @property
    def end(self) -> str:
        """The status in which it must end when nobody cancels it."""
        return "failed" if self.verb in ("fail", "exhaust") else "completed"

    def body(self) -> dict[str, Any]:
        """Return it as the API takes it."""
        return {
            "id": self.id,
            "executor": self.executor,
            "description": f"{self.seconds:.3f} {self.verb}",
            "max_attempts": self.max_attempts,
            "queue": self.queue,
            **({"idempotency_key": self.key} if self.key else {}),
        }


def mixed(count: int, chance: random.Random, *, seconds_max: float) -> list[Order]:
    """Return tasks of all kinds: 10 % fail (half of them once), 5 % are cancelled."""
    return [_mixed_one(number, chance, seconds_max) for number in range(count)]


def _mixed_one(number: int, chance: random.Random, seconds_max: float) -> Order:
    verbs = ("fail", "fail-once", "ok")
    cancels = ("waiting", "running", "")
    return Order(
        id=f"t{number:06}",
        executor=chance.choices(("looped", "probe", "forked"), (60, 35, 5))[0],
        seconds=chance.uniform(0, seconds_max),
        verb=chance.choices(verbs, (5, 5, 90))[0],
        cancel=chance.choices(cancels, (2.5, 2.5, 95))[0],
        key=f"key {number}",
    )


def healthy(
    count: int, *, executor: str = "looped", seconds: float, prefix: str = "t", **more: Any
) -> list[Order]:
    """Return tasks that all do the same and succeed."""
    return [
        Order(id=f"{prefix}{number:06}", executor=executor, seconds=seconds, **more)
        for number in range(count)
    ]


class Job:
    """Hands orders in, and remembers what was acknowledged.

    Everything here repeats until some daemon has answered; only answers count.
    """

    def __init__(
        self,
        fleet: Fleet,
        orders: Sequence[Order] = (),
        *,
        through: Sequence[Daemon] | None = None,
    ) -> None:
        """Args:
        orders: what `run` hands in.
        through: the daemons to talk to; all of the fleet when it is not given.
        """
        self.fleet = fleet
        self.orders = {order.id: order for order in orders}
        self.accepted: set[str] = set()
        """Ids that a daemon said it has."""
        self.cancelled: set[str] = set()
        """Ids of which a daemon said that they are cancelled or will be."""
        self.closed = threading.Event()
        self._clients = Clients(fleet.daemons if through is None else through)

    def submit(self, orders: Sequence[Order]) -> None:
        """Hand in orders, in chunks, until each was acknowledged."""
        self.orders |= {order.id: order for order in orders}
        for first in range(0, len(orders), CHUNK_TASKS):
            self._submit_chunk(orders[first : first + CHUNK_TASKS])

    def _submit_chunk(self, chunk: Sequence[Order]) -> None:
        bodies = [order.body() for order in chunk]

        def send(client: Client) -> Any:
            return client.request(
                "POST", "/v1/tasks", bodies, timeout_seconds=ANSWER_SECONDS
            )

        answer = self._until_answered(send)
        if answer is not None:
            self.accepted |= {task["id"] for task in answer["items"]}

    def submit_twin(self, order: Order) -> None:
        """Hand in an order's body again under another id, which must not make a task."""
        body = {**order.body(), "id": f"{order.id}-twin"}

        def send(client: Client) -> Any:
            with suppress(Conflict):
                client.request("POST", "/v1/tasks", body)
            return {}

        self._until_answered(send)

    def cancel(self, task_id: str) -> None:
        """Cancel a task until a daemon has answered."""

        def send(client: Client) -> Any:
            try:
                return client.request("POST", f"/v1/tasks/{task_id}/cancel", {})
            except Conflict:
                return {}

        answer = self._until_answered(send)
        if answer:
            self.cancelled.add(task_id)

    def _until_answered(self, send: Callable[[Client], Any]) -> Any:
        while not self.closed.is_set():
            try:
                return send(self._clients.any())
            except (Unreachable, Unavailable):
                self._clients.forget()
                time.sleep(PAUSE_SECONDS)
        return None

    def close(self) -> None:
        """Hang up; a later call connects again."""
        self._clients.forget()

    # --- beside the storm -------------------------------------------------------------

    def run(self) -> None:
        """Hand in every order, then cancel what is to be cancelled, as it comes to it."""
        orders = list(self.orders.values())
        for first in range(0, len(orders), CHUNK_TASKS):
            chunk = orders[first : first + CHUNK_TASKS]
            self._submit_chunk(chunk)
            for order in chunk:
                if order.cancel == "waiting":
                    self.cancel(order.id)
        self._cancel_running({o.id for o in orders if o.cancel == "running"})

    def _cancel_running(self, wanted: set[str]) -> None:
        while wanted and not self.closed.is_set():
            begun = {line.task for line in self.fleet.witness.lines()} & wanted
            for task_id in sorted(begun):
                self.cancel(task_id)
            wanted -= begun
            time.sleep(PAUSE_SECONDS)

    @contextmanager
    def in_background(self) -> Iterator[threading.Thread]:
        """Let `run` go on in a thread of its own, and see it through at the end."""
        failures: list[BaseException] = []

        def target() -> None:
            try:
                self.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=target, name="job", daemon=True)
        thread.start()
        try:
            yield thread
            thread.join(60)
            assert not thread.is_alive(), "the job was not handed in"
        finally:
            self.closed.set()
            thread.join(60)
            self.close()
        if failures:
            raise failures[0]


class Clients:
    """Finds a daemon that answers, another one after each failure. For one thread."""

    def __init__(self, daemons: Sequence[Daemon]) -> None:
        self._daemons = daemons
        self._turn = 0
        self._client: Client | None = None

    def any(self) -> Client:
        """Return a client of some daemon; raises `Unreachable` when there is none."""
        if self._client is None:
            listening = [d for d in self._daemons if d.is_alive and d.is_ready]
            if not listening:
                raise Unreachable("no daemon is up", sent=False)
            self._turn += 1
            self._client = listening[self._turn % len(listening)].client()
        return self._client

    def forget(self) -> None:
        """Turn to another daemon next time."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
