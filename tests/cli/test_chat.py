"""Test `chat` with one question, from an argument or from a pipe."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from convokit import Convokit
from convokit.cli.invocation import format_command
from tests.cli.conftest import CommandLine
from tests.support.server import LoopbackServer, completion, failure, stream
from tests.support.token_counts import count_request, count_text


def test_stdout_holds_only_the_reply(cli: CommandLine) -> None:
    """The command for the next question goes to stderr."""
    result = cli.chat("hello there")
    assert result.stdout == "echo: hello there\n"
    assert result.stderr == f"continue with: {format_command('chat')} --base-url {cli.base_url} --continue\n"


def test_continue_resumes_the_conversation_used_last(cli: CommandLine, server: LoopbackServer) -> None:
    """The request holds the earlier turn and names the stored model."""
    cli.chat("one")
    cli("chat", "--base-url", cli.base_url, "--continue", "two")
    sent = server.requests[-1].body
    assert [message["content"] for message in sent["messages"]] == ["one", "echo: one", "two"]
    assert sent["model"] == "loop-1"


def test_same_key_continues_the_conversation(cli: CommandLine, server: LoopbackServer) -> None:
    """With a key, stderr names no command for the next question."""
    assert cli.chat("--key", "ticket-42", "one").stderr == ""
    cli.chat("--key", "ticket-42", "two")
    assert len(server.requests[-1].body["messages"]) == 3


def test_developer_prompt_is_stored_with_the_conversation(cli: CommandLine, server: LoopbackServer) -> None:
    cli.chat("-p", "Be terse.", "one")
    cli.chat("--continue", "two")
    assert server.requests[-1].body["messages"][0] == {"role": "system", "content": "Be terse."}


def test_json_holds_reply_ids_and_usage(cli: CommandLine, server: LoopbackServer) -> None:
    found = json.loads(cli.chat("--key", "k", "--json", "hi").stdout)
    assert set(found) == {
        "text",
        "conversation_id",
        "key",
        "turn_id",
        "usage",
        "expected_cached_tokens",
        "finish_reason",
        "model",
        "changes",
    }
    assert found["text"] == "echo: hi"
    assert found["usage"]["prompt_tokens"] == count_request(server.requests[-1].body) > 0
    assert found["usage"]["completion_tokens"] == count_text("echo: hi")
    assert found["key"] == "k"


def test_stdin_is_the_question_without_text(cli: CommandLine, server: LoopbackServer) -> None:
    """The last line end is removed."""
    cli.chat(given="一行目\nsecond line\n")
    assert server.requests[-1].body["messages"][-1]["content"] == "一行目\nsecond line"


def test_request_parameters_apply_to_one_turn(cli: CommandLine, server: LoopbackServer) -> None:
    cli.chat("--temperature", "0.5", "--max-output-tokens", "7", "-o", "seed=3", "-o", "stop=END", "hi")
    sent = server.requests[-1].body
    assert (sent["temperature"], sent["max_tokens"], sent["seed"], sent["stop"]) == (0.5, 7, 3, "END")
    cli.chat("--continue", "again")
    assert "temperature" not in server.requests[-1].body


def test_no_stream_requests_the_whole_reply(cli: CommandLine, server: LoopbackServer) -> None:
    assert cli.chat("--no-stream", "hi").stdout == "echo: hi\n"
    assert not server.requests[-1].body.get("stream")


def test_a_reply_cannot_steer_the_terminal(cli: CommandLine, server: LoopbackServer) -> None:
    """Escape characters are made visible; JSON holds them exactly."""
    server.answer = lambda body: stream(["\x1b[31mred\u202e"]) if body.get("stream") else completion("\x1b[31mred")
    assert cli.chat("hi").stdout == "␛[31mred<U+202E>\n"
    printed = cli.chat("--json", "hi").stdout
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert json.loads(printed)["text"] == "\x1b[31mred\u202e"


def test_broken_stream_keeps_the_partial_reply(cli: CommandLine, server: LoopbackServer) -> None:
    """The partial text is printed and saved, and stderr explains the failure."""
    server.script(stream(["one ", "two "], finish=None, done=False))
    server._scripted[-1].pieces.append(None)
    result = cli.chat("--key", "k", "count", code=1)
    assert result.stdout == "one two \n"
    kept, error = result.stderr.splitlines()[:2]
    assert kept == "the reply broke off: the partial reply is saved"
    assert error.startswith("error: ")
    assert [message["status"] for message in cli.json("show", "k")["messages"]] == ["complete", "partial"]


def test_retries_are_noted_on_stderr(cli: CommandLine, server: LoopbackServer) -> None:
    server.script(failure(503, "busy", headers={"retry-after-ms": "1"}))
    result = cli.chat("hi")
    assert result.stdout == "echo: hi\n"
    assert result.stderr.startswith("ServerFailed: trying again in 0.0 s\n")


def test_reply_cut_at_the_length_limit_is_noted(cli: CommandLine, server: LoopbackServer) -> None:
    server.script(stream(["and then"], finish="length"))
    assert "cut at its length limit" in cli.chat("hi").stderr


def test_chat_creates_a_missing_file_and_refuses_an_empty_one(cli: CommandLine, tmp_path: Path) -> None:
    """An empty file may belong to another program, so it gets no tables."""
    assert cli.chat("-d", "new.db", "hi").stdout == "echo: hi\n"
    assert f"{format_command('chat')} --base-url" in cli.chat("-d", "new.db", "--continue", "hi").stderr
    (tmp_path / "other.db").touch()
    line = cli.chat("-d", "other.db", "hi", code=1).stderr.splitlines()[0]
    assert "has no convokit tables" in line
    assert "`convokit db upgrade`" in line
    with sqlite3.connect("other.db") as file:
        assert file.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    file.close()


def test_default_database_is_in_the_current_folder(cli: CommandLine, tmp_path: Path) -> None:
    cli.chat("hi", env={"CONVOKIT_DATABASE_URL": None})
    assert (tmp_path / "convokit.db").exists()


def test_first_question_becomes_the_title(cli: CommandLine) -> None:
    """The title is cut by terminal cells."""
    cli.chat("日本語の質問です。" * 10)
    [found] = cli.json("ls")["conversations"]
    assert found["title"].startswith("日本語の質問です。")
    assert found["title"].endswith("…")
    cli.chat("--continue", "another")
    assert cli.json("ls")["conversations"][0]["title"] == found["title"]


def test_proxy_is_not_used_for_a_loopback_server(cli: CommandLine) -> None:
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "NO_PROXY": None}
    assert cli.chat("hi", env=nowhere).stdout == "echo: hi\n"


def test_continue_stays_within_the_tenant(cli: CommandLine) -> None:
    cli.chat("--tenant", "acme", "one")
    assert "no conversation yet" in cli.mistake("chat", "--model", "m", "--continue", "two")
    assert "--tenant acme" in cli.chat("--tenant", "acme", "--continue", "two").stderr


@pytest.mark.parametrize("option", ["--no-stream", "--json"])
def test_turn_is_saved_with_every_output_option(cli: CommandLine, option: str) -> None:
    """Question and reply are stored, and the chain verifies."""
    cli.chat("--key", "k", option, "hi")
    with Convokit(cli.database) as kit:
        chat = kit.chat("k")
        assert [message.text for message in chat.messages()] == ["hi", "echo: hi"]
        chat.verify()


def test_an_empty_stdin_is_a_missing_question(cli: CommandLine, server: LoopbackServer) -> None:
    """A program without a terminal runs the printed `--continue`: the error says what to do, and no model is called."""
    cli.chat("--key", "k", "one")
    error = cli.mistake("chat", "--continue", "--model", "m", "--base-url", cli.base_url, given="")
    assert error == "error: TEXT: is missing: write the question behind the command, or run the command in a terminal"
    assert len(server.requests) == 1
