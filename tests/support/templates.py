"""States that take long to make: made once in a session, and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.postgres import PostgresServer


class StateTemplates:
    """One content, as a SQLite file and as a PostgreSQL database, made when first asked.

    Args:
        make: fills the empty database at a URL.
    """

    def __init__(
        self, make: Callable[[str], None], folder: Path, server: PostgresServer
    ) -> None:
        self._make = make
        self._file = folder / "template.db"
        self._server = server
        self._database = ""

    @contextmanager
    def copy(self, kind: str, folder: Path) -> Iterator[str]:
        """Lend the URL of a copy; `kind` is `sqlite` or `postgresql`."""
        if kind == "sqlite":
            if not self._file.exists():
                self._make(f"sqlite:///{self._file}")
            path = folder / "orchd.sqlite"
            shutil.copy(self._file, path)
            yield f"sqlite:///{path}"
            return
        if not self._database:
            name = self._server.create_database()
            self._make(self._server.database_url(name))
            self._database = name
        with self._server.database(template=self._database) as url:
            yield url

    def close(self) -> None:
        """Drop the database."""
        if self._database:
            self._server.retire_database(self._database)
