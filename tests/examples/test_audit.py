"""The auditor's report: its exit codes, who removed what, and that it writes nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from convokit.testing import ScriptedModel

pytestmark = pytest.mark.once


@pytest.fixture
def run_audit(
    load_example: Callable[[str], Any], convokit_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Return a function that runs the report with the key of this test, and returns its exit code."""
    program = load_example("audit")
    secret = tmp_path / "auditor.key"
    secret.write_text("a secret of sixteen bytes or more")

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["audit.py", str(convokit_file), "--key-file", str(secret), *arguments])
        code: int = program.main()
        return code

    return run


def _alter(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement)
        database.commit()


def test_the_report_shows_messages_requests_removals_and_usage(
    run_audit: Callable[..., int],
    convokit_kit: Convokit,
    scripted_model: ScriptedModel,
    convokit_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted_model.add("八時までです。", "Good bye.")
    chat = convokit_kit.chat("desk", subject="reader-7", developer_prompt="Be brief.")
    chat.send("何時までですか。")
    chat.send("My number is 555.")
    convokit_kit.chat("other", subject="reader-8").send("hello")
    chat.redact(3, author="satoshi", reason="電話番号")
    convokit_kit.close()
    before = hashlib.sha256(convokit_file.read_bytes()).digest()
    assert run_audit("--subject", "reader-7") == 0
    printed = capsys.readouterr().out
    assert "2 conversations, 10 entries verified, 0 broken" in printed
    assert "八時までです。" in printed
    assert "Request of the newest reply: redacted, gpt-6-luna" in printed
    assert "developer Be brief." in printed
    assert "satoshi: redaction of " in printed
    assert ":3 in desk: 電話番号" in printed
    assert "gpt-6-luna: 2 calls" in printed
    assert "hello" not in printed
    assert hashlib.sha256(convokit_file.read_bytes()).digest() == before


def test_an_altered_message_ends_with_code_1(
    run_audit: Callable[..., int],
    convokit_kit: Convokit,
    convokit_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    convokit_kit.chat("desk").send("何時までですか。")
    _alter(convokit_file, "UPDATE convokit_message SET content = '十時までです。' WHERE seq = 2")
    assert run_audit("--new-checkpoint", str(tmp_path / "new.jsonl")) == 1
    assert "message 2 is not what was written" in capsys.readouterr().out
    assert not (tmp_path / "new.jsonl").exists()  # a checkpoint would sign what was altered


def test_a_conversation_that_was_deleted_is_found_by_the_checkpoint(
    run_audit: Callable[..., int],
    convokit_kit: Convokit,
    convokit_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = str(tmp_path / "heads.jsonl")
    convokit_kit.chat("desk").send("hello")
    assert run_audit("--new-checkpoint", checkpoint) == 0
    assert run_audit("--checkpoint", checkpoint) == 0
    _alter(convokit_file, "DELETE FROM convokit_conversation")
    assert run_audit() == 0
    assert run_audit("--checkpoint", checkpoint) == 1
    assert "is missing" in capsys.readouterr().out


def test_a_checkpoint_of_another_key_ends_with_code_2(
    run_audit: Callable[..., int], convokit_kit: Convokit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convokit_kit.chat("desk").send("hello")
    convokit_kit.checkpoint(key="another secret of enough bytes", to=tmp_path / "heads.jsonl")
    assert run_audit("--checkpoint", str(tmp_path / "heads.jsonl")) == 2
    assert "signature" in capsys.readouterr().err
