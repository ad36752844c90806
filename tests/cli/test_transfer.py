"""Test `export` and `import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convokit import Convokit
from tests.cli.conftest import CommandLine, Terminal
from tests.support.chatgpt import conversation
from tests.support.databases import Files
from tests.transfer.test_import_sources import write_parts


@pytest.fixture
def other(files: Files) -> str:
    url = files.empty()
    with Convokit(url, model="m") as kit:
        kit.migrate()
    return url


def test_export_can_be_imported_into_another_database(cli: CommandLine, other: str) -> None:
    """A repeated import changes nothing."""
    cli.chat("--key", "k", "こんにちは")
    shown = cli("export", "-o", "all.jsonl")
    assert (shown.stdout, shown.stderr) == ("", "1 conversation, 2 messages in all.jsonl\n")
    came = cli("import", "all.jsonl", "--trusted", "--database", other)
    assert came.stdout == "1 conversation, 2 messages; 1 of them from another database, with a new hash chain\n"
    assert (
        cli("import", "all.jsonl", "--trusted", "-d", other).stdout
        == "0 conversations, 0 messages; 1 conversation already stored\n"
    )
    assert cli.json("show", "k", "-d", other)["messages"][0]["content"] == "こんにちは"


def test_export_to_stdout_can_be_imported_from_stdin(cli: CommandLine, other: str) -> None:
    cli.chat("--key", "k", "hello")
    written = cli("export", "k").stdout
    assert written.startswith('{"convokit":{"version":1')
    found = cli.json("import", "-", "--trusted", "-d", other, given=written)
    assert (found["conversations"], found["rechained"]) == (1, 1)
    assert '"messages":[{"role":"user","content":"hello"}' in cli("export", "--format", "openai").stdout
    assert "\n> hello\n" in cli("export", "--format", "markdown").stdout


def test_import_reads_a_chatgpt_export(cli: CommandLine) -> None:
    """An invalid record is an error, or with --skip-bad it is reported and the exit code is 1."""
    Path("c.json").write_text(json.dumps([{"id": "x"}, conversation()]), "utf-8")
    assert "c.json, line 1: conversation: is not from ChatGPT" in cli.mistake(
        "import", "c.json", "-f", "chatgpt", "--trusted"
    )
    came = cli("import", "c.json", "-f", "chatgpt", "--trusted", "--skip-bad", code=1)
    assert came.stdout == "1 conversation, 12 messages\n"
    assert came.stderr == (
        "left out: images 2, thoughts 1\n"
        'skipped, line 1: conversation: is not from ChatGPT: it has no object "mapping"\n'
    )
    found: Any = cli.json("import", "c.json", "-f", "chatgpt", "--trusted", "--skip-bad", code=1)
    assert (found["unchanged"], found["skipped"], found["problems"][0]["line"]) == (1, 1, 1)


def test_import_reads_several_files_and_folders(cli: CommandLine) -> None:
    """`--dry-run` writes nothing, and what is left out is shown."""
    paths = [str(path) for path in write_parts(Path())]
    shown = cli("import", *paths, "-f", "chatgpt", "--dry-run")
    assert shown.stdout == "would import 3 conversations, 33 messages\n"
    assert shown.stderr == "left out: images 6, instructions 3, thoughts 3\n"
    assert cli("import", *paths, "-f", "chatgpt").stdout == "3 conversations, 33 messages\n"
    assert cli("import", ".", "-f", "chatgpt").stdout == "0 conversations, 0 messages; 3 conversations already stored\n"
    Path("b.json").write_text("7")
    found = cli("import", *paths, "b.json", "-f", "chatgpt", "--skip-bad", code=1)
    assert "b.json, line 1: is not a JSON array or object" in found.stderr.replace("\n", "")


def test_import_takes_keys_with_a_prefix(cli: CommandLine) -> None:
    cli.chat("--key", "k", "hello")
    cli("export", "-o", "all.jsonl")
    assert cli("import", "all.jsonl", "--prefix", "ada/").stdout == "1 conversation, 2 messages\n"
    assert cli.json("show", "ada/k")["messages"][0]["content"] == "hello"


def test_export_and_import_mistakes_are_one_line(cli: CommandLine) -> None:
    assert "no.jsonl: cannot be read" in cli.mistake("import", "no.jsonl")
    Path("x").write_text("{}", "utf-8")
    assert "x, line 1: is not an export of convokit" in cli.mistake("import", "x")
    assert "cannot be written" in cli.mistake("export", "-o", "no/where.jsonl")
    assert "no conversation nobody" in cli.mistake("export", "nobody")
    assert "--output" in cli("export", "--json", code=2).stderr


def test_terminal_shows_a_progress_bar(cli: CommandLine, terminal: type[Terminal]) -> None:
    cli.chat("--key", "k", "hello")
    shown = terminal("export", "-d", cli.database, "-o", "all.jsonl")
    shown.wait_for("1 conversation, 2 messages in all.jsonl")
    assert "exporting" in shown.seen


@pytest.mark.soak(sample=True)
def test_an_export_cannot_steer_a_terminal(cli: CommandLine, terminal: type[Terminal]) -> None:
    """A pipe gets the exact bytes."""
    cli.chat("--key", "k", "a\x1b[31mred\u202e")
    assert "a\x1b[31mred\u202e" in cli("export", "--format", "markdown").stdout
    shown = terminal("export", "-d", cli.database, "--format", "markdown")
    shown.wait_for("␛[31mred<U+202E>")
