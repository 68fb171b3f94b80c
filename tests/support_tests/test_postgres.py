"""The test database itself keeps the promises that other tests build on."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from support import postgres
from support.postgres import PostgresServer


def _answer(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def test_the_server_is_the_version_it_says(postgres_server: PostgresServer) -> None:
    number = int(str(_answer(postgres_server.url, "SHOW server_version_num")))
    assert postgres_server.version.split(".")[0] == str(number // 10000)
    assert number >= 150000


def test_a_fresh_database_is_empty_and_utf8(postgres_url: str) -> None:
    assert postgres_url.startswith("postgresql://")
    query = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert _answer(postgres_url, query) == 0
    assert _answer(postgres_url, "SHOW server_encoding") == "UTF8"


def test_a_dropped_database_disconnects_its_users(
    postgres_server: PostgresServer,
) -> None:
    name = postgres_server.create_database()
    connection = psycopg.connect(postgres_server.database_url(name))
    postgres_server.drop_database(name)
    with pytest.raises(psycopg.OperationalError), connection:
        connection.execute("SELECT 1")


def test_a_database_is_gone_when_the_next_one_retires(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        name = _name_of(url)
    with postgres_server.database():
        pass
    query = f"SELECT count(*) FROM pg_database WHERE datname = '{name}'"
    assert _answer(postgres_server.url, query) == 0


def test_a_database_is_reached_by_tcp_too(postgres_server: PostgresServer) -> None:
    name = postgres_server.create_database()
    try:
        url = postgres_server.tcp_url(name)
        assert _answer(url, "SELECT current_database()") == name
        assert _answer(url, "SELECT inet_server_addr() IS NOT NULL") is True
    finally:
        postgres_server.drop_database(name)


def test_a_database_copies_its_template(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as original:
        with psycopg.connect(original) as connection:
            connection.execute("CREATE TABLE copied (n int)")
        with postgres_server.database(_name_of(original)) as url:
            assert _answer(url, "SELECT count(*) FROM copied") == 0


def _name_of(url: str) -> str:
    return str(_answer(url, "SELECT current_database()"))


def test_each_kind_of_database_has_its_url(
    database_url: str, request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.id
    assert kind in ("sqlite", "postgresql")
    assert database_url.startswith(f"{kind}://")


def test_the_carried_binaries_work_where_the_server_cannot_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are copied when their folder is closed to the server's user."""
    package = postgres.carried_binaries().parents[1]
    closed = tmp_path / "closed"
    for folder in package.parent.glob(f"{package.name}*"):
        if folder.suffix in ("", ".libs"):
            shutil.copytree(folder, closed / folder.name)
    closed.chmod(0o700)
    binaries = closed / package.name / "pginstall" / "bin"
    monkeypatch.setenv(postgres.BINARIES_VARIABLE, str(binaries))
    monkeypatch.delenv(postgres.SERVER_URL_VARIABLE, raising=False)
    with postgres.running_server(fsync=True) as server:
        assert _answer(server.url, "SHOW fsync") == "on"
        folder = Path(str(_answer(server.url, "SHOW data_directory"))).parent
        assert folder.exists()
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(postgres.SERVER_URL_VARIABLE, raising=False)
    with (
        pytest.raises(RuntimeError, match="no_such_setting"),
        postgres.running_server(settings={"no_such_setting": "1"}),
    ):
        pytest.fail("a server with an unknown setting started")


def test_a_server_ends_with_a_killed_test_run(tmp_path: Path) -> None:
    """The server's process is gone when its parent is killed outright."""
    program = (
        "import signal, sys\n"
        "from support import postgres\n"
        "with postgres.running_server() as server:\n"
        "    print(server.url, flush=True)\n"
        "    signal.pause()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop(postgres.SERVER_URL_VARIABLE, None)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        folder = Path(str(_answer(url, "SHOW data_directory"))).parent
        postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        sockets = str(_answer(url, "SHOW unix_socket_directories"))
        descriptor = os.pidfd_open(postmaster)
        parent.send_signal(signal.SIGKILL)
    try:
        # A process's descriptor becomes readable when the process ends.
        ended, _, _ = select.select([descriptor], [], [], 30)
    finally:
        os.close(descriptor)
        shutil.rmtree(folder)
        shutil.rmtree(sockets)
    assert ended


def test_a_server_that_crashed_starts_again_on_its_data() -> None:
    with postgres.restartable_server() as (server, cluster), server.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        cluster.crash()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)
        cluster.start()
        assert _answer(url, "SELECT count(*) FROM kept") == 0
