"""Test `replay` and `diff`."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from rich.cells import cell_len
from sqlalchemy import update

from convokit import Convokit
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.schema import message
from tests.audit.recordings import redacted
from tests.cli.conftest import CommandLine, Terminal
from tests.support.server import LoopbackServer


def lookup(port: int) -> str:
    """Return who listens."""
    return "nginx"


def _send_two_turns(cli: CommandLine, server: LoopbackServer) -> Any:
    with Convokit(cli.database, model="loop-1", base_url=server.url, developer_prompt="簡潔に\x1b[31m") as kit:
        chat = kit.chat("鍵", tools=[lookup])
        image = {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODdhQAHwAA=="}}
        chat.send([{"type": "text", "text": "図 \u202e"}, image])
        chat.send("こんにちは", temperature=0.5)
        return [turn.id for turn in chat.turns()]


def _alter(cli: CommandLine, **values: Any) -> None:
    engine = open_engine(parse_database_url(cli.database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(update(message).where(message.c.seq == 1).values(**values))
    engine.dispose()


def test_body_writes_the_exact_bytes(cli: CommandLine, server: LoopbackServer) -> None:
    turns = _send_two_turns(cli, server)
    command = [sys.executable, "-m", "convokit", "replay", "鍵", "--body", "--database", cli.database]
    assert subprocess.run(command, capture_output=True, check=True).stdout == server.requests[-1].raw
    first = cli("replay", "鍵", "--body", "--turn", str(turns[0]), "--call", "1")
    assert first.stdout_bytes == server.requests[0].raw


def test_replay_prints_status_parameters_and_messages(cli: CommandLine, server: LoopbackServer) -> None:
    """Nothing in the request can steer the terminal."""
    turns = _send_two_turns(cli, server)
    shown = cli("replay", "鍵").stdout
    assert shown.startswith(f"exact  call 1 of turn {turns[1]}  loop-1")
    for words in ("temperature: 0.5", "tools: 1 (lookup)", "簡潔に", "こんにちは", "echo: parts", "image_url"):
        assert words in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_replay_json_equals_the_request(cli: CommandLine, server: LoopbackServer) -> None:
    _send_two_turns(cli, server)
    found = cli.json("replay", "鍵")
    assert (found["status"], found["problem"], found["call"]) == ("exact", None, 1)
    body = {"model": found["model"], "messages": found["messages"], **found["parameters"]}
    assert body == server.requests[-1].body


def test_altered_message_exits_with_1(cli: CommandLine, server: LoopbackServer) -> None:
    """A redacted message is not an error, but the exact bytes are gone."""
    _send_two_turns(cli, server)
    _alter(cli, parts=None, content="other")
    assert "mismatch" in cli("replay", "鍵", code=1).stdout
    assert "message 1 is not what was written" in cli("replay", "鍵", code=1).stdout
    assert "no bytes to write" in cli("replay", "鍵", "--body", code=1).stderr
    redacted(cli.database, 1)
    shown = cli("replay", "鍵").stdout
    assert "[redacted: message 1]" in shown
    assert "message 1 was redacted" in cli("replay", "鍵", "--body", code=1).stderr


def test_diff_names_the_reason(cli: CommandLine, server: LoopbackServer) -> None:
    """Without turns the command compares the last two."""
    turns = _send_two_turns(cli, server)
    shown = cli("diff", "鍵", str(turns[0]), str(turns[1])).stdout
    assert shown.startswith("parameter: the messages begin alike; the parameter temperature differs")
    assert "a  (nothing)" in shown
    assert "b  0.5" in shown
    assert "in common: 2 messages" in shown
    assert cli("diff", "鍵").stdout == shown
    found = cli.json("diff", "鍵")
    assert (found["reason"], found["turns"]) == ("parameter", [str(turn) for turn in turns])


def test_replay_and_diff_mistakes_are_one_line(cli: CommandLine, server: LoopbackServer) -> None:
    assert "no conversation" in cli.mistake("replay", "nothing")
    cli.chat("--key", "k", "hello")
    assert "no API call 7" in cli.mistake("replay", "k", "--call", "7")
    assert "not a UUID" in cli.mistake("replay", "k", "--turn", "x")
    assert "to compare with" in cli.mistake("diff", "k")
    assert "exclude each other" in cli("replay", "k", "--body", "--json", code=2).stderr


@pytest.mark.soak(sample=True)
def test_body_is_not_written_to_a_terminal(cli: CommandLine, server: LoopbackServer, terminal: type[Terminal]) -> None:
    """Raw bytes could steer it. The readable form cuts lines at the terminal's width."""
    _send_two_turns(cli, server)
    looking = terminal("replay", "鍵", "--body", "--database", cli.database)
    assert looking.end() == 2
    assert "redirect them to a file" in " ".join(looking.seen.replace("│", " ").split())
    listed = terminal("replay", "鍵", "--database", cli.database, NO_COLOR="1")
    assert listed.end() == 0
    assert "image_url" in listed.seen
    plain = re.sub("\x1b\\[[0-9;]*m", "", listed.seen)
    parts = next(line for line in plain.splitlines() if line.startswith('{"type":"image_url"'))
    assert cell_len(parts) == 60
    assert parts.endswith("…")
