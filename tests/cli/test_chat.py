"""`chat`: one question, from the arguments or a pipe; every turn is saved and can be gone on with."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from convokit import Convokit
from tests.cli.conftest import CommandLine
from tests.support.server import LoopbackServer, completion, failure, stream


def test_the_reply_goes_to_stdout_and_nothing_else_does(cli: CommandLine) -> None:
    """stdout holds the reply's words; how to go on is said on stderr."""
    result = cli.chat("hello there")
    assert result.stdout == "echo: hello there\n"
    assert result.stderr == f"continue with: convokit chat --base-url {cli.base_url} --continue\n"


def test_continue_resumes_the_conversation_used_last(cli: CommandLine, server: LoopbackServer) -> None:
    """The next turn is sent with the one before, and with the model that was named then."""
    cli.chat("one")
    cli("chat", "--base-url", cli.base_url, "--continue", "two")
    sent = server.requests[-1].body
    assert [message["content"] for message in sent["messages"]] == ["one", "echo: one", "two"]
    assert sent["model"] == "loop-1"


def test_a_key_names_the_conversation(cli: CommandLine, server: LoopbackServer) -> None:
    """The same key is the same conversation; whoever knows the key needs no advice on how to go on."""
    assert cli.chat("--key", "ticket-42", "one").stderr == ""
    cli.chat("--key", "ticket-42", "two")
    assert len(server.requests[-1].body["messages"]) == 3


def test_a_developer_prompt_stays_with_the_conversation(cli: CommandLine, server: LoopbackServer) -> None:
    """What was said with -p is sent with every later turn, until another one is said."""
    cli.chat("-p", "Be terse.", "one")
    cli.chat("--continue", "two")
    assert server.requests[-1].body["messages"][0] == {"role": "system", "content": "Be terse."}


def test_json_is_one_object(cli: CommandLine) -> None:
    """A program gets the reply with its ids, usage and what was changed of the request."""
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
    assert found["usage"]["total_tokens"] == 12
    assert found["key"] == "k"


def test_a_pipe_holds_the_question(cli: CommandLine, server: LoopbackServer) -> None:
    """Without TEXT, stdin is the question, all its lines, without the last line's end."""
    cli.chat(given="一行目\nsecond line\n")
    assert server.requests[-1].body["messages"][-1]["content"] == "一行目\nsecond line"


def test_parameters_are_sent(cli: CommandLine, server: LoopbackServer) -> None:
    """Options and `-o NAME=JSON` are request parameters of this turn only."""
    cli.chat("--temperature", "0.5", "--max-output-tokens", "7", "-o", "seed=3", "-o", "stop=END", "hi")
    sent = server.requests[-1].body
    assert (sent["temperature"], sent["max_tokens"], sent["seed"], sent["stop"]) == (0.5, 7, 3, "END")
    cli.chat("--continue", "again")
    assert "temperature" not in server.requests[-1].body


def test_without_stream_the_reply_is_the_same(cli: CommandLine, server: LoopbackServer) -> None:
    """`--no-stream` asks for the whole reply at once."""
    assert cli.chat("--no-stream", "hi").stdout == "echo: hi\n"
    assert not server.requests[-1].body.get("stream")


def test_a_reply_cannot_steer_the_terminal(cli: CommandLine, server: LoopbackServer) -> None:
    """Escapes in a reply are shown, not obeyed; JSON has them exact."""
    server.answer = lambda body: stream(["\x1b[31mred\u202e"]) if body.get("stream") else completion("\x1b[31mred")
    assert cli.chat("hi").stdout == "␛[31mred<U+202E>\n"
    printed = cli.chat("--json", "hi").stdout
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert json.loads(printed)["text"] == "\x1b[31mred\u202e"


def test_a_reply_that_breaks_off_is_kept(cli: CommandLine, server: LoopbackServer) -> None:
    """What came is printed and saved, then one line says what happened."""
    server.script(stream(["one ", "two "], finish=None, done=False))
    server._scripted[-1].pieces.append(None)
    result = cli.chat("--key", "k", "count", code=1)
    assert result.stdout == "one two \n"
    kept, error = result.stderr.splitlines()[:2]
    assert kept == "the reply broke off: the partial reply is saved"
    assert error.startswith("error: ")
    assert [message["status"] for message in cli.json("show", "k")["messages"]] == ["complete", "partial"]


def test_retries_are_said(cli: CommandLine, server: LoopbackServer) -> None:
    """A call that is made again says so on stderr; the reply is printed once."""
    server.script(failure(503, "busy", headers={"retry-after-ms": "1"}))
    result = cli.chat("hi")
    assert result.stdout == "echo: hi\n"
    assert result.stderr.startswith("ServerFailed: trying again in 0.0 s\n")


def test_a_cut_reply_says_so(cli: CommandLine, server: LoopbackServer) -> None:
    """A reply that hit its length limit is not passed off as whole."""
    server.script(stream(["and then"], finish="length"))
    assert "cut at its length limit" in cli.chat("hi").stderr


def test_a_new_file_is_made_and_an_old_one_is_left_alone(cli: CommandLine, tmp_path: Path) -> None:
    """`chat` migrates a SQLite file only if it was not there before; an empty one of somebody else it refuses."""
    assert cli.chat("-d", "new.db", "hi").stdout == "echo: hi\n"
    assert "convokit chat --base-url" in cli.chat("-d", "new.db", "--continue", "hi").stderr
    (tmp_path / "other.db").touch()
    line = cli.chat("-d", "other.db", "hi", code=1).stderr.splitlines()[0]
    assert "has no convokit tables" in line
    assert "`convokit db upgrade`" in line
    with sqlite3.connect("other.db") as file:
        assert file.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    file.close()


def test_the_default_database_is_in_this_folder(cli: CommandLine, tmp_path: Path) -> None:
    """Without --database and CONVOKIT_DATABASE_URL it is convokit.db here."""
    cli.chat("hi", env={"CONVOKIT_DATABASE_URL": None})
    assert (tmp_path / "convokit.db").exists()


def test_the_first_question_is_the_title(cli: CommandLine) -> None:
    """A conversation without a key can be told from others by its first question, cut by cells."""
    cli.chat("日本語の質問です。" * 10)
    [found] = cli.json("ls")["conversations"]
    assert found["title"].startswith("日本語の質問です。")
    assert found["title"].endswith("…")
    cli.chat("--continue", "another")
    assert cli.json("ls")["conversations"][0]["title"] == found["title"]


def test_a_server_on_this_machine_is_reached_past_a_proxy(cli: CommandLine) -> None:
    """A proxy of the environment is for other hosts: a local model answers all the same."""
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "NO_PROXY": None}
    assert cli.chat("hi", env=nowhere).stdout == "echo: hi\n"


def test_tenants_do_not_meet(cli: CommandLine) -> None:
    """`--continue` finds the tenant's own conversations only."""
    cli.chat("--tenant", "acme", "one")
    assert "no conversation yet" in cli.mistake("chat", "--model", "m", "--continue", "two")
    assert "--tenant acme" in cli.chat("--tenant", "acme", "--continue", "two").stderr


@pytest.mark.parametrize("option", ["--no-stream", "--json"])
def test_every_turn_is_saved_whole(cli: CommandLine, option: str) -> None:
    """However the reply is printed, question and reply are stored and the chain holds."""
    cli.chat("--key", "k", option, "hi")
    with Convokit(cli.database) as kit:
        chat = kit.chat("k")
        assert [message.text for message in chat.messages()] == ["hi", "echo: hi"]
        chat.verify()
