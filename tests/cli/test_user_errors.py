"""Test that a user's mistake is one line on stderr and exit code 1."""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from convokit import Convokit
from convokit.cli import output
from convokit.errors import ConvokitError
from tests.cli.conftest import CommandLine, Terminal
from tests.support.selection import keep
from tests.support.server import LoopbackServer, stream

NOBODY = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chat", "hi"], "no model was given"),
        (["chat", "hi", "-m", "gpt-6-luna"], "needs a key"),
        (["chat", "hi", "-m", "m", "--base-url", "nonsense"], "base_url"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "--profile", "nobody"], "no provider named"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "--temperature", "9"], "temperature"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "--temperature", "nan"], "temperature"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "--max-output-tokens", "0"], "max_output_tokens"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "-o", "temprature=1"], "unknown request parameter"),
        (["chat", "", "-m", "m", "--base-url", NOBODY], "is empty"),
        (["chat", "a\0b", "-m", "m", "--base-url", NOBODY], "NUL"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "--key", ""], "is empty"),
        (["chat", "hi", "-m", "m", "--base-url", NOBODY, "--tenant", ""], "tenant"),
        (["chat", "hi", "-m", "m", "--continue"], "no conversation yet"),
        (["chat", "hi", "-m", "m", "--continue", "-d", "new.db"], "no conversation yet"),
        (["chat", "hi", "--local", "nothere.gguf"], "no such file: nothere.gguf"),
        (["chat", "hi", "--local=."], "is a folder"),
        (["show"], "no conversation yet"),
        (["show", "nokey"], "no conversation nokey"),
        (["show", "01a20862-4bf1-7b87-845c-49a3baedd9ff"], "no conversation 01a20862"),
        (["verify", "nokey"], "no conversation nokey"),
        (["context", "nokey", "-m", "m"], "no conversation nokey"),
        (["ls", "--before", "nonsense"], "not a cursor"),
        (["ls", "-d", "nothere.db"], "no such file"),
        (["ls", "-d", "nowhere/x.db"], "folder"),
        (["ls", "-d", "."], "is a folder"),
        (["ls", "-d", "x" * 300], "cannot be opened"),
        (["ls", "-d", "nu\0l.db"], "NUL"),
        (["chat", "hi", "-m", "m", "-d", "x" * 300], "cannot be opened"),
        (["ls", "-d", "mysql://host/name"], "mysql is not supported"),
        (["db", "current", "-d", "sqlite:///:memory:"], "in memory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(cli: CommandLine, arguments: list[str], said: str) -> None:
    assert said in cli.mistake(*arguments)


def test_an_unreachable_server_is_one_line(cli: CommandLine) -> None:
    """The question is saved."""
    result = cli("chat", "hi", "-m", "m", "--base-url", NOBODY, "--key", "k", code=1)
    assert result.stdout == ""
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "cannot connect" in error[0]
    assert [message["text"] for message in cli.json("show", "k")["messages"]] == ["hi"]


def test_mistake_creates_no_database_file(cli: CommandLine, tmp_path: Path) -> None:
    cli.mistake("chat", "hi", "-d", "new.db")
    cli.mistake("chat", "hi", "-d", "new.db", "-m", "m", "--temperature", "9")
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_no_database_stays_unchanged(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear reader, " * 100)
    assert "not a usable SQLite database" in cli.mistake("ls", "-d", "letter.db")
    assert (tmp_path / "letter.db").read_text() == "Dear reader, " * 100


def test_unreachable_database_is_named_without_its_password(cli: CommandLine) -> None:
    line = cli.mistake("ls", "-d", "postgresql://me:secret@127.0.0.1:1/chats")
    assert "PostgreSQL database chats at 127.0.0.1" in line
    assert "secret" not in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_reported(cli: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert "permissions" in cli.mistake("chat", "hi", "-m", "m", "-d", "locked/new.db")


def test_binary_stdin_is_refused_with_the_byte_position(cli: CommandLine) -> None:
    line = cli.mistake("chat", "-m", "m", "--base-url", NOBODY, given=b"ab\xff")
    assert "byte 2" in line


def test_missing_model_or_key_hints_at_local(cli: CommandLine) -> None:
    for arguments in (["hi"], ["hi", "-m", "gpt-6-luna"]):
        assert "--local" in cli("chat", *arguments, code=1).stderr.splitlines()[1]


def test_error_text_cannot_steer_the_terminal(cli: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    """The text of an error may come from a server."""
    output.report_error(ConvokitError("bad\x1b[2J\r\nthing"))
    assert capsys.readouterr().err == "error: bad␛[2J thing\n"


def test_diff_without_a_key_compares_the_turns_of_the_last_conversation(cli: CommandLine) -> None:
    cli.chat("--key", "old", "one")
    cli.chat("--key", "new", "one")
    cli.chat("--key", "new", "two")
    assert cli.json("diff") == cli.json("diff", "new")


def test_verify_names_conversations_by_their_key(cli: CommandLine) -> None:
    """A conversation without a key is named by its id."""
    cli.chat("--key", "鍵", "hi")
    cli.chat("hi")
    unnamed = cli.json("ls", "--limit", "1")["conversations"][0]["id"]
    file = sqlite3.connect(str(make_url(cli.database).database))
    file.execute("UPDATE convokit_message SET content = 'ho' WHERE seq = 1")
    file.commit()
    file.close()
    lines = cli("verify", "--all", code=1).stdout.splitlines()
    assert sorted(line.partition(", entry")[0] for line in lines[:2]) == sorted(
        ["broken: conversation 鍵", f"broken: conversation {unnamed}"]
    )
    assert cli.mistake("verify", "鍵").startswith("error: conversation 鍵, entry")
    assert cli.mistake("verify").startswith(f"error: conversation {unnamed}, entry")
    assert {each["key"] for each in cli.json("verify", "--all", code=1)["broken"]} == {"鍵", None}
    assert cli.json("verify", "鍵", code=1)["key"] == "鍵"


def test_a_busy_conversation_is_told_without_names_of_the_api(cli: CommandLine, server: LoopbackServer) -> None:
    """The command line has no option `on_busy`."""
    server.script(stream(["one ", "two "], pause_s=0.0))
    with Convokit(cli.database, model="loop-1", base_url=cli.base_url) as kit, kit.chat("k").stream("hi") as events:
        next(iter(events))
        said = cli.chat("--key", "k", "again", code=1).stderr
    assert "conversation k has an open turn" in said
    assert "wait until it ends" in said
    assert "convokit recover" in said
    assert "on_busy" not in said


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize(
    "command", keep([("export",), ("export", "-f", "markdown"), ("ls",), ("show", "k")], ("export",), sample=True)
)
def test_a_closed_pipe_is_no_error(cli: CommandLine, command: tuple[str, ...]) -> None:
    """`convokit export | head` prints what `head` asked for, and nothing on stderr."""
    cli.chat("--key", "k", "長い文章。" * 200)
    run = [sys.executable, "-m", "convokit", *command, "-d", cli.database]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize(
    "command", keep([("ls",), ("show", "k"), ("verify", "k", "--json"), ("doctor",)], ("ls",), sample=True)
)
def test_output_that_cannot_be_written_is_one_line(cli: CommandLine, command: tuple[str, ...]) -> None:
    """A full disk behind stdout is an error without a traceback; a stdout that the shell has closed is none."""
    cli.chat("--key", "k", "長い文章。" * 200)
    line = shlex.join([sys.executable, "-m", "convokit", *command, "-d", cli.database])
    full = subprocess.run(["sh", "-c", f"{line} > /dev/full"], stderr=subprocess.PIPE, text=True, check=False)
    assert full.stderr.startswith("error: the output cannot be written")
    assert "Traceback" not in full.stderr
    assert full.returncode == 1
    closed = subprocess.run(["sh", "-c", f"{line} >&-"], stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in closed.stderr


@pytest.mark.parametrize("given", keep([(), ("-o", "/dev/stdout"), ("-o", "/dev/tty")], (), sample=True))
def test_export_to_a_terminal_shows_no_control_characters(
    cli: CommandLine, terminal: Callable[..., Terminal], tmp_path: Path, given: tuple[str, ...]
) -> None:
    """A file gets the exact text. `-o /dev/stdout` may be the terminal too."""
    cli.chat("--key", "k", "a\x1b]0;owned\x07b\x9b2J")
    shown = terminal("export", "-f", "markdown", "-d", cli.database, *given)
    assert shown.end() == 0
    assert "a␛]0;owned␇b<U+009B>2J" in shown.seen
    assert "\x1b]" not in shown.seen  # the progress bar on stderr uses other sequences
    assert not set("\x07\x9b") & set(shown.seen)
    cli("export", "-f", "markdown", "-o", str(tmp_path / "out.md"))
    assert "a\x1b]0;owned\x07b\x9b2J" in (tmp_path / "out.md").read_text("utf-8")
