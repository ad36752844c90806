"""Test `convokit serve`: what it refuses to start, and the commands that its demo prints."""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convokit import Convokit
from convokit.cli.app import app
from convokit.cli.demo.model import answer_demo
from convokit.runtime.sync_store import open_store
from convokit.store.engine import describe_url, parse_database_url
from convokit.store.keys import ApiKeyRow, digest_key, insert_key, make_key
from convokit.testing import RecordedRequest
from tests.server.gateway_process import running

pytestmark = pytest.mark.soak(sample=True)


def refuse(*arguments: str, code: int = 1) -> str:
    """Run a command that must not start, and return its message."""
    result = CliRunner().invoke(app, ["serve", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stderr


def create_key(file: Path) -> None:
    """Store an API key, as `convokit keys create` does."""
    with Convokit(file) as kit:
        kit.migrate()
    url = parse_database_url(file)
    row = ApiKeyRow(digest_key(make_key()), "default", "first", ("chat", "read"), None, None, time.time_ns() // 1000)
    store = open_store(url, describe_url(url))
    store.run(lambda connection: insert_key(connection, row), write=True)
    store.close()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.once
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_keys_only_loopback_is_served(host: str) -> None:
    """The server does not start on an address that others reach, and says how to create a key."""
    message = refuse("-d", "chat.db", "--upstream", "http://127.0.0.1:9/v1", "--host", host)
    assert message.startswith(
        f"error: host: the database has no API key, so everyone who reaches {host} could chat: run `"
    )
    assert "keys create NAME` first" in message


@pytest.mark.once
def test_without_keys_no_proxy_is_trusted() -> None:
    """A proxy makes a loopback address reachable for others."""
    message = refuse("-d", "chat.db", "--upstream", "http://127.0.0.1:9/v1", "--trusted-proxy", "127.0.0.1")
    assert "every user of the proxy could chat" in message


@pytest.mark.once
def test_with_a_key_any_host_is_allowed_and_a_taken_port_is_named(tmp_path: Path) -> None:
    """With a key in the database the next check is the port."""
    create_key(tmp_path / "chat.db")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refuse("-d", "chat.db", "--upstream", "http://127.0.0.1:9/v1", "--host", "0.0.0.0", "--port", port)
    assert message.startswith(
        f"error: port: cannot listen on 0.0.0.0, port {port} (Address already in use): stop the other"
    )


@pytest.mark.once
def test_a_server_must_be_given(tmp_path: Path) -> None:
    """Without a key and a URL in the environment nothing is created."""
    assert refuse("-d", "chat.db").startswith("error: upstream: no server was given: export OPENAI_API_KEY, or name")
    assert not (tmp_path / "chat.db").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    "given", [["--upstream", "http://x/v1"], ["--local"], ["--model", "m"], ["--config", "c.toml"]]
)
def test_the_demo_sets_its_model(given: list[str]) -> None:
    """An option that names another model or server is refused."""
    assert "cannot be used with --demo" in refuse("--demo", *given, code=2)


@pytest.mark.once
def test_old_tables_are_not_upgraded(tmp_path: Path) -> None:
    """A file without tables is refused with the command that creates them."""
    (tmp_path / "chat.db").touch()
    assert "db upgrade`" in refuse("-d", "chat.db", "--upstream", "http://127.0.0.1:9/v1")


@pytest.mark.once
def test_a_key_in_a_file_that_others_read_is_warned_of(tmp_path: Path) -> None:
    """The command warns, and goes on to the next problem."""
    file = tmp_path / "convokit.toml"
    file.write_text('host = "0.0.0.0"\n[upstreams.a]\napi_key = "secret-1"\n')
    file.chmod(0o644)
    message = refuse("--config", str(file))
    assert f"warning: every user of this machine can read {file}" in message
    assert "error: host: " in message
    assert "secret-1" not in message


@pytest.mark.once
def test_the_missing_extra_is_named() -> None:
    """Without Starlette the command says what to install."""
    code = "import sys; sys.modules['starlette'] = None; sys.argv = ['convokit', 'serve', '--demo'];"
    code += "from convokit.cli import main; main()"
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr == "error: `serve` needs an extra: run `pip install 'convokit-sql[cli,server]'`\n"


@pytest.mark.once
def test_the_demo_answers_in_the_language_of_the_question() -> None:
    """The reply shows how many messages the model was sent, and the first one."""

    def ask(*texts: object) -> object:
        messages = [{"role": "user", "content": text} for text in texts]
        return answer_demo(RecordedRequest(1, "/v1/chat/completions", {}, {"messages": messages})).text

    assert ask("Hello") == 'I got "Hello". That is message 1 from you in this conversation.'
    parts = [{"type": "text", "text": "これは"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert ask("花子です", parts) == (
        "「これは [image_url]」を受け取りました。この会話で2番目のメッセージです。最初のメッセージは「花子です」でした。"
    )


@pytest.mark.once
def test_the_commands_of_the_demo_run_as_printed(tmp_path: Path) -> None:
    """The curl line and the Python lines continue one conversation, which the file keeps."""
    with running("--demo", "-d", "demo.db", folder=tmp_path) as gateway:
        assert gateway.process.stdout is not None
        printed = []
        for line in gateway.process.stdout:
            printed.append(line.rstrip("\n"))
            if line.startswith("print("):
                break
        curl = next(line for line in printed if line.startswith("curl "))
        if shutil.which("curl"):
            found = subprocess.run(shlex.split(curl), check=True, capture_output=True, text=True)
            assert r"I got \"My name is Hanako.\". That is message 1" in found.stdout
        python = printed[printed.index("from openai import OpenAI") :]
        assert len(python) == 4
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec("\n".join(python), {})
        first = ' The first one was "My name is Hanako.".' if shutil.which("curl") else ""
        number = 2 if shutil.which("curl") else 1
        expected = f'I got "What did I say?". That is message {number} from you in this conversation.{first}\n'
        assert shown.getvalue() == expected
    with Convokit(tmp_path / "demo.db") as kit:
        assert [each.key for each in kit.conversations()] == ["hanako"]
