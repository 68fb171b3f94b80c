"""What systemd hears, and how the log looks in the journal."""

import logging
import shutil
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from ops.serve.conftest import Manager
from orchd_ops.serve.log_lines import LineFormatter
from support.command_line import CommandLine


def test_systemd_hears_of_every_turn(cli: CommandLine, manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    daemon = cli.serve(environ=environ)
    assert any(line.startswith("STATUS=") for line in manager.wait_for("READY=1"))
    manager.wait_for("WATCHDOG=1")
    daemon.signal(signal.SIGHUP)
    assert any(
        line.startswith("MONOTONIC_USEC=") for line in manager.wait_for("RELOADING=1")
    )
    manager.wait_for("READY=1")
    daemon.signal(signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    manager.wait_for("EXTEND_TIMEOUT_USEC=")
    assert daemon.wait() == 0


def record_of(message: str, error: Exception | None = None) -> logging.LogRecord:
    """Return a warning."""
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("orchd.x", logging.WARNING, "f", 1, message, (), info)


def test_a_record_is_one_line_without_control_characters() -> None:
    line = LineFormatter(journal=False).format(record_of("a\nb\x1b[0m", ValueError("c\nd")))
    assert line.isprintable()
    assert "warning orchd.x: a\\nb\\u001b[0m" in line
    assert "ValueError: c\\nd" in line


def test_in_the_journal_a_line_begins_with_its_priority() -> None:
    assert LineFormatter(journal=True).format(record_of("a")) == "<4>warning orchd.x: a"


def unit() -> str:
    """Return the packaged unit file."""
    return (files("orchd_ops") / "deploy" / "orchd.service").read_text()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    lines = [line for line in unit().splitlines() if line and line[0] not in "#["]
    assert all("=" in line for line in lines)
    if program is None:
        return
    # The program is not installed where the unit expects it on a developer's machine.
    text = unit().replace("/usr/bin/orchd", sys.executable)
    file = tmp_path / "orchd.service"
    file.write_text(text)
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_gives_draining_the_time_it_needs() -> None:
    settings = dict(
        line.split("=", 1) for line in unit().splitlines() if "=" in line and line[0] != "#"
    )
    assert settings["Type"] == "notify"
    assert int(settings["TimeoutStopSec"]) > 30 + 2 + 1
    assert settings["RestartPreventExitStatus"] == "78"
