"""The interactive chat, in a real terminal: typing, Ctrl-C, Ctrl-D, and Japanese in 60 columns."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from convokit import Budget, Convokit
from convokit.cli.repl import Interrupts
from tests.cli.conftest import CommandLine, Terminal
from tests.support.server import LoopbackServer, stream

Open = Callable[..., Terminal]


def _talk(terminal: Open, cli: CommandLine, *arguments: str) -> Terminal:
    opened = terminal("chat", "-m", "loop-1", "--base-url", cli.base_url, "-d", cli.database, *arguments)
    opened.wait_for("> ")
    return opened


def test_ctrl_c_in_the_middle_of_a_reply_keeps_what_came(
    terminal: Open, cli: CommandLine, server: LoopbackServer
) -> None:
    """The reply stops at once, its beginning is stored as partial, and the talk goes on with it."""
    server.script(stream([f"word{number} " for number in range(100)], pause_s=0.2))
    talk = _talk(terminal, cli, "--key", "k")
    talk.type("数えてください\r")
    talk.wait_for("word1 ")
    talk.type("\x03")
    talk.wait_for("stopped: what came is kept")
    talk.wait_for("> ")
    talk.type("go on\r")
    talk.wait_for("echo: go on")
    talk.wait_for("> ")
    talk.type("\x04")
    assert talk.end() == 0
    messages = cli.json("show", "k")["messages"]
    assert [message["status"] for message in messages] == ["complete", "partial", "complete", "complete"]
    assert messages[0]["text"] == "数えてください"
    assert messages[1]["text"].startswith("word0 word1 ")
    assert len(messages[1]["text"].split()) < 50
    assert server.requests[-1].body["messages"][1]["content"] == messages[1]["text"]
    cli("verify", "k")


@pytest.mark.soak(sample=True)
def test_ctrl_c_before_the_first_word_keeps_the_question(
    terminal: Open, cli: CommandLine, server: LoopbackServer
) -> None:
    """Pressed twice in a row too: the save is not interrupted, and the next turn is not refused as busy."""
    server.script(stream(["late"]))
    server._scripted[-1].pieces.insert(0, 30.0)
    talk = _talk(terminal, cli, "--key", "k")
    talk.type("hello\r")
    talk.wait_for("waiting for the reply")
    deadline = time.monotonic() + 20
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    talk.type("\x03\x03")
    talk.wait_for("stopped before a reply came: the question is kept")
    talk.wait_for("> ")
    talk.type("again\r")
    talk.wait_for("echo: again")
    talk.wait_for("> ")
    time.sleep(0.3)  # one that comes while readline is only just printing its prompt is seen at the next key
    talk.type("\x03")
    assert talk.end() == 0
    assert [message["text"] for message in cli.json("show", "k")["messages"]] == ["hello", "again", "echo: again"]


def test_commands_of_the_talk(terminal: Open, cli: CommandLine) -> None:
    """/help, /history, /context and /quit; an unknown one is said, not sent; a path with words is a question."""
    talk = _talk(terminal, cli)
    talk.type("/history\r")
    talk.wait_for("nothing was said yet")
    talk.wait_for("> ")
    talk.type("こんにちは\r")
    talk.wait_for("echo: こんにちは")
    for command, shown in (
        ("/help", "leave (so do Ctrl-D"),
        ("/nonsense", "there is no /nonsense"),
        ("/history", "assistant"),
        ("/context", "everything fits"),
        ("/etc/hosts is what?", "echo: /etc/hosts is what?"),
    ):
        talk.wait_for("> ")
        talk.type(command + "\r")
        talk.wait_for(shown)
    talk.wait_for("> ")
    talk.type("/quit\r")
    talk.wait_for("continue with: ")
    assert talk.end() == 0
    assert [message["role"] for message in cli.json("show")["messages"]] == ["user", "assistant"] * 2


@pytest.mark.soak(sample=True)
def test_an_error_does_not_end_the_talk(terminal: Open, cli: CommandLine, server: LoopbackServer) -> None:
    """It is one line, and the next question is asked."""
    server.script(stream(["a"], finish=None, done=False))
    server._scripted[-1].pieces.append(None)
    talk = _talk(terminal, cli)
    talk.type("one\r")
    talk.wait_for("error: ")
    talk.wait_for("> ")
    talk.type("two\r")
    talk.wait_for("echo: two")


@pytest.mark.soak(sample=True)
def test_history_holds_this_conversations_questions(terminal: Open, cli: CommandLine) -> None:
    """Arrow up brings back what was asked before, in an earlier process too."""
    cli.chat("--key", "k", "最初の質問")
    talk = _talk(terminal, cli, "--key", "k")
    talk.type("\x1b[A\r")
    talk.wait_for("echo: 最初の質問")
    assert [message["text"] for message in cli.json("show", "k")["messages"]].count("最初の質問") == 2


def test_a_stopped_command_exits_with_130(cli: CommandLine, server: LoopbackServer) -> None:
    """SIGINT in the middle of `chat TEXT`: what came is kept, and the exit code says how it ended."""
    server.script(stream(["one ", "two "] * 50, pause_s=0.1))
    command = [sys.executable, "-m", "convokit.cli", "chat", "-m", "m", "--base-url", cli.base_url, "-d", cli.database]
    ran = subprocess.Popen([*command, "count"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.stdout is not None
    assert os.read(ran.stdout.fileno(), 3) == b"one"
    ran.send_signal(signal.SIGINT)
    _, stderr = ran.communicate(timeout=20)
    assert ran.returncode == 130
    assert stderr.decode().splitlines()[0] == "stopped: what came is kept"
    assert cli.json("show")["messages"][1]["status"] == "partial"


@pytest.mark.soak(sample=True)
def test_a_reader_that_leaves_is_no_fault(cli: CommandLine) -> None:
    """`convokit show | head -1` ends quietly."""
    with Convokit(cli.database, model="m", base_url=cli.base_url, budget=Budget(context_tokens=10**6)) as kit:
        kit.chat("k").send("word\n" * 50_000)
    command = [sys.executable, "-m", "convokit.cli", "show", "k", "-d", cli.database]
    ran = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.stdout is not None
    os.read(ran.stdout.fileno(), 4)
    ran.stdout.close()
    assert ran.stderr is not None
    assert ran.stderr.read() == b""
    ran.stderr.close()
    ran.wait()


@pytest.mark.soak(sample=True)
def test_a_terminal_that_is_not_utf8_replaces_what_it_lacks(cli: CommandLine) -> None:
    """The rest of the text is printed; JSON stays exact."""
    cli.chat("--key", "k", "日本 ok")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "convokit.cli", "show", "k", "-d", cli.database]
    shown = subprocess.run(command, capture_output=True, check=True, env=env)
    assert b"?? ok" in shown.stdout
    exact = subprocess.run([*command, "--json"], capture_output=True, check=True, env=env)
    assert b"\\u65e5\\u672c ok" in exact.stdout


def test_a_third_ctrl_c_always_raises() -> None:
    """Two are held back while nothing is waited for; whoever insists gets out."""
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupts.pressed == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_ctrl_c_from_before_the_waiting_ends_it() -> None:
    """What was held back raises as soon as the program would wait."""
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.waiting():
            pytest.fail("it waited")
