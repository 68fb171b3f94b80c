"""The HTTP API on real sockets, over a real ledger."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from orchd.config.settings import (
    BUILT_IN_EXECUTORS,
    BUILT_IN_VERIFIERS,
    ExecutorSettings,
    Settings,
    TaskSettings,
)
from orchd.ledger.opening import open_ledger
from orchd.ledger.port import (
    Acted,
    ActOnTask,
    Claimed,
    ClaimedTask,
    ClaimTasks,
    Ledger,
    Origin,
    WorkerView,
)
from orchd.operations import DirectCommitter, Operations
from orchd.system import RealSystem
from orchd.tasks.commands import Complete, Fail, Output
from orchd.tasks.failures import ErrorClass
from orchd_ops.http.app import build_app
from orchd_ops.http.doors import Doors
from orchd_ops.http.listening import listen_tcp, listen_unix
from orchd_ops.http.server import HTTPServer

TOKEN = "a-token-for-tests"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS = b"# TYPE orchd_build_info gauge\norchd_build_info 1\n"
ORIGIN = Origin(actor="test")


async def _render(accept: str) -> tuple[str, bytes]:
    del accept
    return METRICS_TYPE, METRICS


class API:
    """A running API, its ledger, and short ways to use both."""

    def __init__(
        self, ledger: Ledger, operations: Operations, server: HTTPServer, socket: Path
    ) -> None:
        self.ledger = ledger
        self.operations = operations
        self.server = server
        self.socket = socket
        self.health: list[str] = []
        self.system = RealSystem()
        self.commit = operations._commit
        self.url = f"http://127.0.0.1:{server.port}"
        self.http = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
            limits=httpx2.Limits(max_connections=100),
        )

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Submit a task that must be accepted."""
        answer = await self.http.post("/v1/tasks", json={"description": "work", **fields})
        assert answer.status_code == 201, answer.text
        task: dict[str, Any] = answer.json()
        return task

    async def send(
        self, head: str, body: bytes = b"", *, finish: bool = True
    ) -> tuple[int, dict[str, str], Any]:
        """Send bytes over a connection of their own; return status, headers, JSON."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
            await writer.drain()
            return await read_answer(reader)
        finally:
            writer.close()

    async def claim(self, *executors: str, slots: int = 100) -> tuple[ClaimedTask, ...]:
        """Claim what is ready, for a worker of this test."""
        now = await self.ledger.now()
        workers = {worker.id for worker in await self.ledger.workers()}
        if "test-worker" not in workers:
            await self.ledger.register_worker(worker_view(now, executors), 600)
        request = ClaimTasks(
            worker="test-worker", slots=slots, now=now, executors=executors, origin=ORIGIN
        )
        (outcome,) = await self.commit([request])
        assert isinstance(outcome, Claimed), outcome
        return outcome.tasks

    async def complete(self, claimed: ClaimedTask, result: str) -> None:
        """End a run well."""
        token, run = claimed.state.token or 0, claimed.state.runs
        output = Output(result=result)
        command = Complete(
            now=claimed.state.updated_at, token=token, run=run, output=output
        )
        await self._act(claimed, command)

    async def fail(self, claimed: ClaimedTask, error: str = "it broke") -> None:
        """End a run badly and for good."""
        command = Fail(
            now=claimed.state.updated_at,
            token=claimed.state.token or 0,
            run=claimed.state.runs,
            error_class=ErrorClass.EXECUTION_FAILED,
            error=error,
            retry_at=0,
            final=True,
        )
        await self._act(claimed, command)

    async def dead_letter(self, **fields: Any) -> str:
        """Submit a task and let it fail for good; return its id."""
        task = await self.submit(**fields)
        (claimed,) = await self.claim(task["executor"])
        await self.fail(claimed)
        return str(task["id"])

    async def _act(self, claimed: ClaimedTask, command: Complete | Fail) -> None:
        task_id = claimed.state.id
        request = ActOnTask(task_id=task_id, command=command, origin=ORIGIN)
        (outcome,) = await self.commit([request])
        assert isinstance(outcome, Acted), outcome


async def read_answer(
    reader: asyncio.StreamReader,
) -> tuple[int, dict[str, str], Any]:
    """Read one answer of an HTTP connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    is_json = "json" in headers.get("content-type", "")
    return int(first.split()[1]), headers, json.loads(body) if is_json else body


def worker_view(now: int, executors: tuple[str, ...]) -> WorkerView:
    """Return a live worker with these executors."""
    return WorkerView(
        id="test-worker",
        host="here",
        boot_id="boot",
        pid=os.getpid(),
        process_start=None,
        executors=executors,
        verifiers=("always-pass",),
        release="test",
        started_at=now,
        renewed_at=now,
        expires_at=now + 600_000_000,
        fenced=False,
    )


def settings_for(url: str, **options: Any) -> Settings:
    """Return settings with the built-in executors, `count`, and `echo` as default."""
    count = ExecutorSettings(name="count", type="command", argv=("wc", "-w"))
    executors: Mapping[str, ExecutorSettings] = {**BUILT_IN_EXECUTORS, "count": count}
    defaults: dict[str, Any] = {
        "executors": executors,
        "verifiers": BUILT_IN_VERIFIERS,
        "tasks": TaskSettings(executor="echo"),
    }
    return Settings(database=url, **(defaults | options))


@asynccontextmanager
async def running_api(url: str, directory: Path, **options: Any) -> AsyncIterator[API]:
    """Run the API on a TCP port and on a Unix socket in `directory`."""
    system = RealSystem()
    ledger = open_ledger(url, system=system, access="write", create=True, migrate=True)
    await ledger.open()
    operations = Operations(
        ledger=ledger,
        commit=DirectCommitter(ledger, system),
        settings=settings_for(url, **options),
        system=system,
    )
    api: API | None = None

    async def health() -> list[str]:
        return [] if api is None else api.health

    tcp = listen_tcp("127.0.0.1", 0)
    doors = Doors.for_listener("127.0.0.1", TOKEN)
    app = build_app(operations, doors=doors, metrics=_render, health=health)
    socket = directory / "orchd.sock"
    local_app = build_app(operations, doors=Doors.for_socket(), actor="cli")
    servers = [HTTPServer(app, tcp), HTTPServer(local_app, listen_unix(str(socket)))]
    for server in servers:
        await server.start()
    api = API(ledger, operations, servers[0], socket)
    try:
        yield api
    finally:
        await api.http.aclose()
        await operations.close()
        for server in servers:
            await server.stop()
        await ledger.close()
