"""A database's URL means the same to the driver as it did to whoever wrote it."""

import pytest

from orchd_eventstore.addresses import postgres_parameters, with_database


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://h/db", {"host": "h", "dbname": "db"}),
        (
            "postgres://me:p%40s/x@h:1/a%20b?sslmode=require",
            {
                "user": "me",
                "password": "p@s/x",
                "host": "h",
                "port": "1",
                "dbname": "a b",
                "sslmode": "require",
            },
        ),
        ("postgresql+psycopg://u@/db", {"user": "u", "dbname": "db"}),
        ("postgresql://[::1]:2/db", {"host": "::1", "port": "2", "dbname": "db"}),
        (
            "postgresql:///db?host=/run/sockets&port=3",
            {"host": "/run/sockets", "port": "3", "dbname": "db"},
        ),
        (
            "postgresql:///db?host=a:1&host=b:2&target_session_attrs=read-write",
            {
                "host": "a,b",
                "port": "1,2",
                "dbname": "db",
                "target_session_attrs": "read-write",
            },
        ),
    ],
)
def test_a_url_names_the_parameters_of_a_connection(
    url: str, expected: dict[str, str]
) -> None:
    assert postgres_parameters(url) == expected


@pytest.mark.parametrize(
    "url", ["mysql://h/db", "postgresql://h:1x/db", "postgresql://u:p@ss@h/db", "h/db"]
)
def test_what_is_no_url_of_postgresql_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be of the form postgresql://"):
        postgres_parameters(url)


def test_another_database_of_the_same_server() -> None:
    url = "postgresql://me:secret@h:1/db?sslmode=require"
    expected = "postgresql://me:secret@h:1/other?sslmode=require"
    assert with_database(url, "other") == expected
    with pytest.raises(ValueError, match="names no database"):
        with_database("postgresql://h", "other")
