"""Where the state and the socket are."""

import os
from pathlib import Path

import pytest

from orchd.config import places
from orchd.errors import ConfigurationError
from orchd.ledger.urls import canonical_url, masked_url


def test_the_state_is_where_systemd_or_the_desktop_says(tmp_path: Path) -> None:
    home = {"HOME": "/home/me"}
    assert places.default_database(home) == "sqlite:////home/me/.local/state/orchd/orchd.db"
    xdg = {**home, "XDG_STATE_HOME": "/xdg"}
    assert places.default_database(xdg) == "sqlite:////xdg/orchd/orchd.db"
    systemd = {**xdg, "STATE_DIRECTORY": "/var/lib/orchd:/var/lib/other"}
    assert places.default_database(systemd) == "sqlite:////var/lib/orchd/orchd.db"


def test_all_spellings_of_a_state_have_one_socket(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    (tmp_path / "link").symlink_to(tmp_path)
    plain = places.socket_path(f"sqlite:///{tmp_path}/a.db", environ)
    assert plain == places.socket_path(f"sqlite:///{tmp_path}/./link/a.db", environ)
    assert plain == places.socket_path(f"sqlite:///{tmp_path}/link/a.db", environ)
    assert plain != places.socket_path(f"sqlite:///{tmp_path}/b.db", environ)
    assert plain.parent == tmp_path


def test_secrets_do_not_tell_states_apart() -> None:
    one = canonical_url("postgresql://me:a@Host/db")
    assert one == canonical_url("postgres://me:b@host:5432/db")
    assert one != canonical_url("postgresql://me@host/other")


@pytest.mark.parametrize("url", ["", "x", "sqlite://", "sqlite:///:memory:", "mysql://h/d"])
def test_a_url_that_names_no_state_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be sqlite"):
        canonical_url(url)


def test_a_path_too_long_for_a_socket_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    path = places.socket_path("sqlite:////a.db", {"XDG_RUNTIME_DIR": str(deep)})
    assert len(os.fsencode(path)) <= places.SOCKET_PATH_BYTES_MAX


def test_the_last_resort_must_be_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    directory = places.runtime_directory({})
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(ConfigurationError, match="not private"):
        places.runtime_directory({})


def test_passwords_are_masked_wherever_a_url_has_them() -> None:
    assert masked_url("postgresql://me:geheim@h/d") == "postgresql://me:***@h/d"
    assert "geheim" not in masked_url("postgresql://h/d?user=me&password=geheim")
    assert masked_url("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert masked_url("sqlite:////a/b:c@d.db") == "sqlite:////a/b:c@d.db"


@pytest.mark.parametrize("sign", list("/?#@:%[]"))
def test_a_password_that_nobody_encoded_is_masked_too(sign: str) -> None:
    for password in (f"geheim{sign}wort", f"{sign}geheim{sign}wort{sign}"):
        shown = masked_url(f"postgresql://me:{password}@h:5432/d?sslmode=disable")
        assert "geheim" not in shown
        assert "wort" not in shown
