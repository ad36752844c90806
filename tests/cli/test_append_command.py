"""Test `append`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convokit import Convokit
from tests.cli.conftest import CommandLine


def test_append_writes_texts_and_prints_their_seqs(cli: CommandLine) -> None:
    assert cli("append", "窓口", "--text", "こんにちは").stdout == "1\n"
    assert cli("append", "窓口", "-", "--role", "assistant", given="はい\n二行目\n").stdout == "2\n"
    with Convokit(cli.database) as kit:
        chat = kit.chat("窓口")
        found = [(each.role, each.text) for each in chat.messages()]
        assert found == [("user", "こんにちは"), ("assistant", "はい\n二行目")]
        assert cli("append", str(chat.id), "--text", "by id").stdout == "3\n"
        assert cli.json("append", "窓口", "--text", "x") == {"id": str(chat.id), "key": "窓口", "seqs": [4]}
        assert cli("append", "窓口", "--after", "0").stdout == ""
        assert chat.messages() == []
        assert cli("append", "窓口", "--after", "1", "--text", "y").stdout == "5\n"
        assert [each.seq for each in chat.messages()] == [1, 5]
        chat.verify()


def test_append_writes_the_messages_of_a_file(cli: CommandLine, tmp_path: Path) -> None:
    """An array, or one message. A repeat with --expect writes nothing."""
    messages = [
        {"role": "user", "content": "領収書"},
        {"role": "assistant", "content": "はい", "kind": "a/1", "item": [1]},
    ]
    file = tmp_path / "m.json"
    file.write_text("\ufeff" + json.dumps(messages), "utf-8")
    for _ in range(2):
        assert cli("append", "k", str(file), "--expect", "0").stdout == "1\n2\n"
    file.write_text(json.dumps(messages[0]), "utf-8")
    assert "ends with message 2, not 0" in cli.mistake("append", "k", str(file), "--expect", "0")
    assert cli("append", "k", str(file)).stdout == "3\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[", "is not JSON"),
        (b"\xff", "byte 0 is not valid UTF-8"),
        (b'[{"role": "user"}]', "messages[0].content: is empty"),
        (b"5", "messages[0]: must be a dict"),
    ],
)
def test_append_names_what_is_wrong_with_a_file(cli: CommandLine, tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "m.json"
    file.write_bytes(content)
    assert problem in cli.mistake("append", "k", str(file))
    assert "cannot be read" in cli.mistake("append", "k", str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    "arguments", [(), ("m.json", "--text", "x"), ("m.json", "--role", "user"), ("--after", "1", "--role", "user")]
)
def test_append_refuses_arguments_that_do_not_fit(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    assert "Error" in cli("append", "k", *arguments, code=2).stderr
