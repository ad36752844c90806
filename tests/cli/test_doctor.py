"""Test `doctor`: every check can pass and fail."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from convokit.cli.commands import doctor
from convokit.cli.invocation import format_command
from convokit.domain.removal import VACUUM_COMMAND
from convokit.store.dialects.postgresql_replication import describe_durability
from convokit.store.schema import metadata
from convokit.tokens import exact
from tests.cli.conftest import CommandLine


def _checks(
    cli: CommandLine, *arguments: str, code: int = 0, env: dict[str, str | None] | None = None
) -> dict[str, Any]:
    found = cli.json("doctor", *arguments, code=code, env=env)
    assert found["ok"] is (code == 0)
    return {check["name"]: check for check in found["checks"]}


def test_healthy_installation_passes(cli: CommandLine) -> None:
    checks = _checks(cli, env={"OPENAI_API_KEY": "sk-secret", "CONVOKIT_MODEL": "gpt-6-luna"})
    for name in ("Python", "convokit-sql", "namesake", "database", "settings", "clock", "revision", "open turns"):
        assert checks[name]["status"] == "ok", checks[name]
    assert checks["model"]["found"] == "gpt-6-luna"
    assert checks["API key"]["status"] == "ok"


def test_api_key_is_never_shown(cli: CommandLine) -> None:
    for arguments in (["doctor"], ["doctor", "--json"]):
        assert "sk-secret" not in cli(*arguments, env={"OPENAI_API_KEY": "sk-secret"}).output


def test_missing_database_model_and_key_are_warnings(cli: CommandLine) -> None:
    checks = _checks(cli, "-d", "new.db")
    assert [checks[name]["status"] for name in ("database", "model", "API key")] == ["warn"] * 3
    assert "--local" in checks["model"]["do"]
    assert f"`{format_command('db', 'upgrade')}`" in cli("doctor", "-d", "new.db").stdout


def test_server_without_key_gives_no_warning(cli: CommandLine) -> None:
    assert _checks(cli, env={"OPENAI_BASE_URL": cli.base_url})["API key"]["status"] == "ok"


def test_base_url_with_a_password_fails_without_showing_it(cli: CommandLine) -> None:
    checks = _checks(cli, code=1, env={"OPENAI_BASE_URL": "http://me:hidden@host/v1"})
    assert checks["base URL"]["status"] == "fail"
    assert "hidden" not in str(checks)


def test_missing_or_too_new_tables_fail(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    assert "db upgrade" in _checks(cli, "-d", "empty.db", code=1)["revision"]["found"]
    file = sqlite3.connect(str(make_url(cli.database).database))
    file.execute("UPDATE convokit_schema SET oldest_code = 99")
    file.execute("UPDATE convokit_alembic_version SET version_num = '9999'")
    file.commit()
    file.close()
    assert "too old" in _checks(cli, code=1)["revision"]["found"]


def test_file_that_is_no_database_fails(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear reader, " * 100)
    assert "not a usable SQLite database" in _checks(cli, "-d", "letter.db", code=1)["database"]["found"]


def test_old_open_turns_are_a_warning(cli: CommandLine) -> None:
    cli.chat("--key", "k", "hi")
    file = sqlite3.connect(str(make_url(cli.database).database))
    file.execute("UPDATE convokit_turn SET claim = 0, state = 'open', lease_until = 1")
    file.commit()
    checks = _checks(cli)
    assert checks["open turns"]["status"] == "ok"
    assert checks["open turns"]["found"].startswith("1, the oldest for ")
    assert checks["open turns"]["found"].endswith("1 past their lease")
    file.execute("UPDATE convokit_turn SET started_at = started_at - 7200000000")
    file.commit()
    file.close()
    assert _checks(cli)["open turns"]["status"] == "warn"


def test_other_distribution_named_convokit_fails(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both distributions install a package named convokit."""
    info = tmp_path / "site" / "convokit-3.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: convokit\nVersion: 3.0.0\n")
    monkeypatch.syspath_prepend(str(info.parent))
    checks = _checks(cli, code=1)
    assert checks["namesake"]["status"] == "fail"
    assert "separate environment" in checks["namesake"]["do"]


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ((3, 6, 23), "ok"),
        ((3, 7, 0), "warn"),
        ((3, 40, 1), "warn"),
        ((3, 44, 5), "warn"),
        ((3, 44, 6), "ok"),
        ((3, 45, 0), "warn"),
        ((3, 50, 6), "warn"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "warn"),
        ((3, 51, 3), "ok"),
        ((3, 52, 0), "ok"),
    ],
)
def test_sqlite_versions_with_the_wal_reset_bug_are_warnings(version: tuple[int, int, int], status: str) -> None:
    """The bug is in 3.7.0 to 3.51.2, except for the repaired 3.44.6 and 3.50.7."""
    assert doctor.check_sqlite(version).status == status


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_doctor_warns_of_a_readable_database(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "秘密 chat.db"
    cli("db", "upgrade", "-d", str(path))
    checks = {each["name"]: each for each in cli.json("doctor", "-d", str(path))["checks"]}
    assert checks["file access"]["status"] == "ok"
    for mode, status in ((0o660, "ok"), (0o644, "warn")):
        path.chmod(mode)
        checks = {each["name"]: each for each in cli.json("doctor", "-d", str(path))["checks"]}
        assert checks["file access"]["status"] == status, oct(mode)
    assert "秘密 chat.db" in checks["file access"]["found"]
    assert f"chmod 600 '{path}'" in checks["file access"]["do"]


@pytest.mark.parametrize("backend", ["postgresql"])
def test_doctor_and_erase_name_the_command_for_postgresql(cli: CommandLine, database: str, backend: str) -> None:
    cli.chat("--key", "k", "hi", "-d", database)
    assert f"`{VACUUM_COMMAND}`" in _checks(cli, "-d", database)["erased text"]["found"]
    shown = cli("erase", "k", "--yes", "-d", database).stdout
    assert f"`{VACUUM_COMMAND}`" in shown
    assert "erased text" not in _checks(cli)


@pytest.mark.parametrize("backend", ["postgresql"])
def test_doctor_says_what_a_failover_may_lose(cli: CommandLine, database: str, backend: str) -> None:
    """The servers of the tests run without fsync, which is a warning."""
    checks = _checks(cli, "-d", database)
    assert (checks["replication"]["status"], checks["durability"]["status"]) == ("ok", "warn")
    assert checks["replication"]["found"] == "a primary; no standby is connected"
    assert "fsync=off" in checks["durability"]["found"]
    assert "replication" not in _checks(cli)


@pytest.mark.parametrize(
    ("commit", "names", "standbys", "found", "advice"),
    [
        ("on", "", 1, "a failover may lose what no standby has yet", None),
        ("local", "*", 1, "a failover may lose what no standby has yet", None),
        ("on", "*", 1, "on the disk of a standby too: a failover to it loses no", None),
        ("remote_apply", "ANY 1 (a, b)", 2, "applied by a standby too", None),
        ("remote_write", "*", 1, "unless both machines crash", None),
        ("on", "*", 0, "each commit waits until a standby connects", "start a standby"),
        ("off", "*", 1, "may lose the turns of the last second", "synchronous_commit=on"),
    ],
)
def test_durability_of_a_primary(commit: str, names: str, standbys: int, found: str, advice: str | None) -> None:
    settings = {"fsync": "on", "full_page_writes": "on"}
    settings |= {"synchronous_commit": commit, "synchronous_standby_names": names}
    facts = describe_durability(settings, standbys)
    assert found in facts.found
    assert names in facts.found
    assert (facts.advice is None) == (advice is None)
    assert (advice or "") in (facts.advice or "")


def test_the_vacuum_command_names_every_table_with_text() -> None:
    without = {"convokit_schema", "convokit_entry", "convokit_removal", "convokit_key", "convokit_key_window"}
    assert set(re.findall("convokit_[a-z_]+", VACUUM_COMMAND)) == set(metadata.tables) - without


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("gpt-6-luna", "exact: o200k_base"),
        ("Qwen2.5-7B-Instruct-Q4_K_M.gguf", "exact: qwen3"),
        ("kimi-k2", "near: ~deepseek_v3; reported usage corrects it"),
        ("日本語モデル", "near: ~o200k_base; reported usage corrects it"),
    ],
)
def test_doctor_names_the_token_counter(cli: CommandLine, model: str, found: str) -> None:
    check = _checks(cli, env={"CONVOKIT_MODEL": model})["token counter"]
    assert (check["status"], check["found"], check["do"]) == ("ok", found, "")


def test_no_model_has_no_token_counter(cli: CommandLine) -> None:
    assert "token counter" not in _checks(cli, env={"CONVOKIT_MODEL": None})


@pytest.mark.once
@pytest.mark.parametrize(
    ("model", "advice"),
    [
        ("qwen3:8b", "`pip install 'convokit-sql[tokens]'` makes the counts exact (qwen3)"),
        ("kimi-k2", "`pip install 'convokit-sql[tokens]'` brings a vocabulary that is near the model's"),
        ("my-model", "`pip install 'convokit-sql[tokens]'` brings a vocabulary that is near the model's"),
    ],
)
def test_doctor_says_what_the_extra_would_bring(model: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "is_splintr_installed", lambda: False)
    check = doctor.check_counter(model)
    assert (check.status, check.found, check.do) == ("ok", "an estimate; reported usage corrects it", advice)


@pytest.mark.once
def test_a_wrong_vocabulary_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose ids differ would count wrongly, so doctor loads the vocabulary."""
    exact._load_encode.cache_clear()
    monkeypatch.setattr(exact, "_load_splintr", lambda vocabulary: lambda text: [1])
    check = doctor.check_counter("qwen3:8b")
    assert check.status == "fail"
    assert "splintr has a wrong vocabulary qwen3" in check.found
    exact._load_encode.cache_clear()
