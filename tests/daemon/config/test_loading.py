"""The configuration: its layers, its rules, its origins."""

from pathlib import Path

import pytest

from orchd.config.loading import Loaded, load
from orchd.config.showing import show
from orchd.config.template import TEMPLATE
from orchd.errors import ConfigurationError


def load_text(
    directory: Path,
    text: str,
    environ: dict[str, str] | None = None,
    options: dict[str, tuple[str, str]] | None = None,
) -> Loaded:
    """Load a configuration file with this text."""
    file = directory / "orchd.toml"
    file.write_text(text)
    base = {"HOME": str(directory)}
    return load(environ={**base, **(environ or {})}, directory=directory, options=options)


def test_without_a_file_every_key_has_its_default(tmp_path: Path) -> None:
    loaded = load(environ={"HOME": str(tmp_path)}, directory=tmp_path)
    assert loaded.file is None
    assert loaded.settings.worker.lease_seconds == 10
    assert loaded.settings.database == f"sqlite:///{tmp_path}/.local/state/orchd/orchd.db"
    assert set(loaded.settings.executors) == {"fake", "echo"}
    assert set(loaded.settings.verifiers) == {"always-pass"}


def test_an_option_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    text = '[worker]\nconcurrency = 1\nlease = "7s"\nkill_grace = "9s"\n'
    environ = {"ORCHD_WORKER__CONCURRENCY": "2", "ORCHD_WORKER__LEASE": "8s"}
    options = {"worker.concurrency": ("--concurrency", "3")}
    loaded = load_text(tmp_path, text, environ, options)
    worker = loaded.settings.worker
    assert (worker.concurrency, worker.lease_seconds, worker.kill_grace_seconds) == (
        3,
        8,
        9,
    )
    assert loaded.origins["worker.concurrency"] == "--concurrency"
    assert loaded.origins["worker.lease"] == "$ORCHD_WORKER__LEASE"
    assert loaded.origins["worker.kill_grace"] == str(tmp_path / "orchd.toml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[worker]\nconcurency = 1", "worker.concurency"),
        ("[worker]\nconcurrency = 0", "worker.concurrency"),
        ('[worker]\nconcurrency = "16"', "worker.concurrency"),
        ("[worker]\nconcurrency = true", "worker.concurrency"),
        ('[worker]\nlease = "10"', "worker.lease"),
        ("[worker]\nlease = 10", "worker.lease"),
        ('[worker]\nmax_output = "1TB"', "worker.max_output"),
        ("[worker]\nqueues = []", "worker.queues"),
        ("worker = 3", "worker"),
        ("[wroker]\n", "wroker"),
        ('database = "mysql://host/db"', "database"),
        ('[server]\nlisten = "8470"', "server.listen"),
        ('[server]\nlisten = "127.0.0.1:99999"', "server.listen"),
        ('[executors.a]\nargv = ["x"]', "executors.a.type"),
        ('[executors.a]\ntype = "shell"', "executors.a.type"),
        ('[executors.a]\ntype = "command"', "executors.a.argv"),
        ('[executors.a]\ntype = "command"\nargv = "wc -w"', "executors.a.argv"),
        ('[executors.a]\ntype = "echo"\nargv = ["x"]', "executors.a.argv"),
        ('[executors."a b"]\ntype = "echo"', "executors"),
        ('[executors.a]\ntype="echo"\n[executors.a.retry]\nmax=1', "executors.a.retry.max"),
        ('[verifiers.v]\ntype = "regex"\npattern = "("', "verifiers.v.pattern"),
        ('[verifiers.v]\ntype = "schema"', "verifiers.v.schema"),
        ('[tasks]\nexecutor = "nobody"', "tasks.executor"),
        ('[tasks]\nverifiers = ["nobody"]', "tasks.verifiers"),
        ('[retry.backoff]\ninitial = "10m"', "retry.backoff.max"),
        ("[queues.q]\nconcurrency = -1", "queues.q.concurrency"),
        ("not toml", "orchd.toml"),
    ],
)
def test_a_broken_rule_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_text(tmp_path, text)
    assert caught.value.key.endswith(key)
    assert caught.value.exit_code == 78


def test_a_misspelt_key_is_answered_with_the_likely_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean concurrency"):
        load_text(tmp_path, "[worker]\nconcurency = 1")


def test_an_unknown_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ORCHD_WORKER__CONCURENCY"):
        load_text(tmp_path, "", {"ORCHD_WORKER__CONCURENCY": "3"})


@pytest.mark.parametrize(
    "variable",
    [
        "ORCHD_TASK_ID",
        "ORCHD_RUN",
        "ORCHD_ATTEMPT",
        "ORCHD_QUEUE",
        "ORCHD_FENCING_TOKEN",
        "ORCHD_IDEMPOTENCY_KEY",
        "ORCHD_PAYLOAD",
        "ORCHD_PAYLOAD_FILE",
        "ORCHD_FEEDBACK",
        "ORCHD_FEEDBACK_FILE",
        "ORCHD_TASK_DESCRIPTION_FILE",
        "ORCHD_RUN_MARK",
        "ORCHD_TEST_DATABASE_URL",
    ],
)
def test_what_a_task_is_told_is_no_configuration(tmp_path: Path, variable: str) -> None:
    """A command that orchd runs may run orchd itself."""
    assert load_text(tmp_path, "", {variable: "x"}).settings.worker.concurrency == 16


def test_an_executor_inherits_retry_and_overrides_parts_of_it(tmp_path: Path) -> None:
    text = """
        [retry]
        max_attempts = 7
        [breaker]
        failures = 2
        [executors.a]
        type = "command"
        argv = ["wc"]
        timeout = "5m"
        retry = { max_crashes = 9, backoff = { initial = "2s" } }
    """
    executor = load_text(tmp_path, text).settings.executors["a"]
    assert (executor.retry.max_attempts, executor.retry.max_crashes) == (7, 9)
    assert executor.retry.backoff.initial_seconds == 2
    assert executor.retry.backoff.max_seconds == 300
    assert executor.breaker.failures == 2
    assert executor.timeout_seconds == 300


def test_variables_reach_named_sections_whatever_their_spelling(tmp_path: Path) -> None:
    text = '[executors.My-Tool]\ntype = "command"\nargv = ["a"]\n'
    environ = {"ORCHD_EXECUTORS__MY_TOOL__ARGV": '["b", "-c"]'}
    settings = load_text(tmp_path, text, environ).settings
    assert settings.executors["My-Tool"].argv == ("b", "-c")


def test_relative_programs_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    text = '[verifiers.tests]\ntype = "command"\nargv = ["./check.sh", "./x"]\n'
    argv = load_text(tmp_path, text).settings.verifiers["tests"].argv
    assert argv == (str(tmp_path / "check.sh"), "./x")


def test_a_schema_comes_from_a_table_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "array"}')
    text = """
        [verifiers.a]
        type = "schema"
        schema = { type = "object" }
        [verifiers.b]
        type = "schema"
        schema_file = "s.json"
    """
    verifiers = load_text(tmp_path, text).settings.verifiers
    assert verifiers["a"].schema == '{"type": "object"}'
    assert verifiers["b"].schema == '{"type": "array"}'


def test_secrets_are_masked_when_shown_and_in_errors(tmp_path: Path) -> None:
    text = """
        database = "postgresql://me:geheim@host/db"
        [executors.a]
        type = "command"
        argv = ["x"]
        env = { WHATEVER = "geheim" }
    """
    assert "geheim" not in str(show(load_text(tmp_path, text)))
    with pytest.raises(ConfigurationError) as caught:
        load_text(tmp_path, 'database = "mysql://me:geheim@host/db"')
    assert "geheim" not in str(caught.value)


def test_every_key_is_shown_with_its_origin(tmp_path: Path) -> None:
    shown = {line.key: line for line in show(load_text(tmp_path, '[worker]\nlease="5s"'))}
    assert shown["worker.lease"].value == "5s"
    assert shown["worker.lease"].origin == str(tmp_path / "orchd.toml")
    assert shown["worker.max_output"].value == "32MiB"
    assert shown["worker.max_output"].origin == "default"
    assert shown["executors.fake.type"].origin == "built in"


def test_the_file_is_looked_for_in_its_usual_places(tmp_path: Path) -> None:
    home = tmp_path / "config"
    (home / "orchd").mkdir(parents=True)
    (home / "orchd/orchd.toml").write_text("[worker]\nconcurrency = 5")
    environ = {"XDG_CONFIG_HOME": str(home), "HOME": str(tmp_path)}
    loaded = load(environ=environ, directory=tmp_path)
    assert loaded.settings.worker.concurrency == 5
    (tmp_path / "other.toml").write_text("[worker]\nconcurrency = 6")
    environ["ORCHD_CONFIG"] = str(tmp_path / "other.toml")
    assert load(environ=environ, directory=tmp_path).settings.worker.concurrency == 6


@pytest.mark.parametrize("named", ["--config", "$ORCHD_CONFIG"])
def test_a_file_that_was_named_has_to_exist(tmp_path: Path, named: str) -> None:
    environ = {"HOME": str(tmp_path)}
    config = "missing.toml" if named == "--config" else None
    if config is None:
        environ["ORCHD_CONFIG"] = "missing.toml"
    with pytest.raises(ConfigurationError, match="existing file") as caught:
        load(environ=environ, directory=tmp_path, config=config)
    assert caught.value.key == named


def test_the_template_is_valid_and_changes_nothing(tmp_path: Path) -> None:
    usual = load(environ={"HOME": str(tmp_path)}, directory=tmp_path).settings
    assert load_text(tmp_path, TEMPLATE).settings == usual


def test_the_template_is_valid_with_every_comment_removed(tmp_path: Path) -> None:
    """What stands behind the comment signs are the defaults, or examples that work."""
    lines = []
    for line in TEMPLATE.splitlines():
        bare = line.removeprefix("# ")
        is_key = bare.startswith("[") or " = " in bare
        lines.append(bare if is_key and "postgresql" not in bare else "")
    settings = load_text(tmp_path, "\n".join(lines)).settings
    usual = load(environ={"HOME": str(tmp_path)}, directory=Path("/")).settings
    assert settings.worker == usual.worker
    assert settings.breaker == usual.breaker
    assert settings.retry == usual.retry
    assert settings.executors["count"].retry.max_attempts == 5
