"""Test the interactive chat and Ctrl-C in a real terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

import pytest

from convokit import Budget, Convokit
from convokit.cli import output
from convokit.cli.interrupts import InterruptGuard
from tests.cli.conftest import CommandLine, Terminal
from tests.support.selection import keep
from tests.support.server import LoopbackServer, stream

pytestmark = pytest.mark.soak(sample=True)

Open = Callable[..., Terminal]


def _start_chat(terminal: Open, cli: CommandLine, *arguments: str) -> Terminal:
    opened = terminal("chat", "-m", "loop-1", "--base-url", cli.base_url, "-d", cli.database, *arguments)
    opened.wait_for("> ")
    return opened


def test_ctrl_c_keeps_the_partial_reply(terminal: Open, cli: CommandLine, server: LoopbackServer) -> None:
    """The chat goes on, and the next request holds the partial reply."""
    server.script(stream([f"word{number} " for number in range(100)], pause_s=0.2))
    talk = _start_chat(terminal, cli, "--key", "k")
    talk.type("数えてください\r")
    talk.wait_for("word1 ")
    talk.type("\x03")
    talk.wait_for("stopped: the partial reply is saved")
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
def test_ctrl_c_before_the_reply_keeps_the_question(terminal: Open, cli: CommandLine, server: LoopbackServer) -> None:
    """A second Ctrl-C does not interrupt the save, and the next turn is not refused as busy."""
    server.script(stream(["late"]))
    server._scripted[-1].pieces.insert(0, 30.0)
    talk = _start_chat(terminal, cli, "--key", "k")
    talk.type("hello\r")
    talk.wait_for("waiting for the reply")
    deadline = time.monotonic() + 20
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    talk.type("\x03\x03")
    talk.wait_for("stopped before the reply started: the question is saved")
    talk.wait_for("> ")
    talk.type("again\r")
    talk.wait_for("echo: again")
    talk.wait_for("> ")
    time.sleep(0.3)  # one that comes while readline is only just printing its prompt is seen at the next key
    talk.type("\x03")
    assert talk.end() == 0
    assert [message["text"] for message in cli.json("show", "k")["messages"]] == ["hello", "again", "echo: again"]


def test_commands_of_the_interactive_chat(terminal: Open, cli: CommandLine) -> None:
    """An unknown command is not sent. A path with words is a question."""
    talk = _start_chat(terminal, cli)
    talk.type("/history\r")
    talk.wait_for("no messages yet")
    talk.wait_for("> ")
    talk.type("こんにちは\r")
    talk.wait_for("echo: こんにちは")
    for command, shown in (
        ("/help", "leave (as Ctrl-D"),
        ("/nonsense", "unknown command /nonsense"),
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
def test_error_does_not_end_the_interactive_chat(terminal: Open, cli: CommandLine, server: LoopbackServer) -> None:
    server.script(stream(["a"], finish=None, done=False))
    server._scripted[-1].pieces.append(None)
    talk = _start_chat(terminal, cli)
    talk.type("one\r")
    talk.wait_for("error: ")
    talk.wait_for("> ")
    talk.type("two\r")
    talk.wait_for("echo: two")


@pytest.mark.soak(sample=True)
def test_arrow_up_recalls_questions_of_earlier_processes(terminal: Open, cli: CommandLine) -> None:
    cli.chat("--key", "k", "最初の質問")
    talk = _start_chat(terminal, cli, "--key", "k")
    talk.type("\x1b[A\r")
    talk.wait_for("echo: 最初の質問")
    assert [message["text"] for message in cli.json("show", "k")["messages"]].count("最初の質問") == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_and_keeps_the_partial_reply(
    cli: CommandLine, server: LoopbackServer, number: signal.Signals, code: int
) -> None:
    """The text that was shown is stored to its last word: no chunk waits to be stored."""
    server.script(stream(["one ", "two "] * 50, pause_s=0.1))
    command = [sys.executable, "-m", "convokit", "chat", "-m", "m", "--base-url", cli.base_url, "-d", cli.database]
    ran = subprocess.Popen([*command, "count"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.stdout is not None
    shown = os.read(ran.stdout.fileno(), 3)
    assert shown == b"one"
    ran.send_signal(number)
    rest, stderr = ran.communicate(timeout=20)
    assert ran.returncode == code
    assert stderr.decode().splitlines()[0] == "stopped: the partial reply is saved"
    message = cli.json("show")["messages"][1]
    assert message["status"] == "partial"
    assert message["text"].strip() == (shown + rest).decode().strip()


def test_sigterm_leaves_the_interactive_chat(terminal: Open, cli: CommandLine, server: LoopbackServer) -> None:
    """The reply so far is saved, and no prompt follows; SIGTERM at the prompt ends the program too."""
    server.script(stream([f"word{number} " for number in range(100)], pause_s=0.2))
    talk = _start_chat(terminal, cli, "--key", "k")
    talk.type("数えて\r")
    talk.wait_for("word1 ")
    talk.kill(signal.SIGTERM)
    talk.wait_for("stopped: the partial reply is saved")
    assert talk.end() == 143
    assert cli.json("show", "k")["messages"][1]["text"].startswith("word0 word1")
    talk = _start_chat(terminal, cli, "--key", "k")
    time.sleep(0.2)  # readline shows the prompt before it waits for keys
    talk.kill(signal.SIGTERM)
    assert talk.end() == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_inside_the_library_keeps_the_partial_reply(
    cli: CommandLine, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """KeyboardInterrupt would end the generator of the turn before it saves the text, so the guard delays it."""
    server.script(stream([f"word{number} " for number in range(20)], pause_s=0.05))
    shown: list[str] = []
    interrupted: list[str] = []

    def interrupt_turn(frame: FrameType, event: str, arg: object) -> None:
        if "convokit/completion/" in frame.f_code.co_filename:
            sys.settrace(None)
            interrupted.append(frame.f_code.co_name)
            signal.raise_signal(number)

    def write_text(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            sys.settrace(interrupt_turn)

    monkeypatch.setattr(output, "write_text", write_text)
    cli.chat("--key", "k", "count", code=code)
    assert interrupted
    assert "".join(shown).startswith("word0 word1 word2 ")
    assert cli.json("show", "k")["messages"][1]["text"] == "".join(shown).removesuffix("\n")


@pytest.mark.soak(sample=True)
def test_closed_pipe_ends_quietly(cli: CommandLine) -> None:
    """A person runs `convokit show | head -1`."""
    with Convokit(cli.database, model="m", base_url=cli.base_url, budget=Budget(context_tokens=10**6)) as kit:
        kit.chat("k").send("word\n" * 50_000)
    command = [sys.executable, "-m", "convokit", "show", "k", "-d", cli.database]
    ran = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.stdout is not None
    os.read(ran.stdout.fileno(), 4)
    ran.stdout.close()
    assert ran.stderr is not None
    assert ran.stderr.read() == b""
    ran.stderr.close()
    ran.wait()


@pytest.mark.soak(sample=True)
def test_ascii_output_replaces_characters_but_json_is_exact(cli: CommandLine) -> None:
    cli.chat("--key", "k", "日本 ok")
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "convokit", "show", "k", "-d", cli.database]
    shown = subprocess.run(command, capture_output=True, check=True, env=env)
    assert b"?? ok" in shown.stdout
    exact = subprocess.run([*command, "--json"], capture_output=True, check=True, env=env)
    assert b"\\u65e5\\u672c ok" in exact.stdout


def test_a_third_ctrl_c_always_raises() -> None:
    with InterruptGuard() as guard:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert guard.presses == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_recorded_sigterm_is_not_forgotten() -> None:
    """SIGTERM while the reply is being saved raises nothing, and still ends the program."""
    before = signal.getsignal(signal.SIGTERM)
    with InterruptGuard() as guard:
        signal.raise_signal(signal.SIGTERM)
    assert (guard.is_terminated, guard.exit_code) == (True, 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_recorded_ctrl_c_raises_at_the_next_wait() -> None:
    with InterruptGuard() as guard:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), guard.allow_interrupt():
            pytest.fail("it waited")


PASTED = "最初の行\rsecond line\r\r  /quit\rlast"


@pytest.mark.parametrize("typed", keep([f"{PASTED}\r", f"\x1b[200~{PASTED}\x1b[201~\r"], f"{PASTED}\r", sample=True))
def test_pasted_lines_are_one_message(terminal: Open, cli: CommandLine, server: LoopbackServer, typed: str) -> None:
    """Whether or not the terminal marks a paste, one call is made. The next line is a message of its own."""
    talk = _start_chat(terminal, cli, "--key", "k")
    talk.type(typed)
    talk.wait_for("echo: 最初の行")
    talk.wait_for("> ")
    talk.type("next\r")
    talk.wait_for("echo: next")
    talk.wait_for("> ")
    talk.type("\x04")
    assert talk.end() == 0
    asked = [each["text"] for each in cli.json("show", "k")["messages"] if each["role"] == "user"]
    assert asked == [PASTED.replace("\r", "\n"), "next"]
    assert len(server.requests) == 2


TYPED: dict[str, tuple[list[str], str]] = {
    "backslash": (["最初の行\\\r", "\\\r", "last\r"], "最初の行\n\nlast"),
    "quotes": (['"""\r', "def f():\r", "    return 1 \\\r", '"""\r'], "def f():\n    return 1 \\"),
    "quotes beside the text": (['"""最初の行\r', 'last"""\r'], "最初の行\nlast"),
    "one line in quotes": (['"""last\\"""\r'], "last\\"),
    "a paste in quotes": (['"""\r', "\x1b[200~first\rlast\x1b[201~\r", '"""\r'], "first\nlast"),
    "a paste that begins with quotes": (['\x1b[200~"""Doc."""\rimport os\x1b[201~\r'], '"""Doc."""\nimport os'),
    "Ctrl-D ends the message": (["first\\\r", "\x04"], "first"),
}
"""Lines of one message as they are typed, and the message."""


@pytest.mark.parametrize("case", TYPED)
def test_several_typed_lines_are_one_message(
    terminal: Open, cli: CommandLine, server: LoopbackServer, case: str
) -> None:
    typed, asked = TYPED[case]
    talk = _start_chat(terminal, cli, "--key", "k")
    for line in typed[:-1]:
        talk.type(line)
        talk.wait_for(". ")
    talk.type(typed[-1])
    talk.wait_for("echo: ")
    assert server.requests[-1].body["messages"] == [{"role": "user", "content": asked}]


def test_ctrl_c_between_the_lines_drops_them(terminal: Open, cli: CommandLine, server: LoopbackServer) -> None:
    talk = _start_chat(terminal, cli)
    talk.type("dropped\\\r")
    talk.wait_for(". ")
    time.sleep(0.3)  # one that comes while readline is only just printing its prompt is seen at the next key
    talk.type("\x03")
    talk.wait_for("> ")
    talk.type("kept\r")
    talk.wait_for("echo: kept")
    assert [request.body["messages"][-1]["content"] for request in server.requests] == ["kept"]
