"""The example clients continue a conversation, and read on after a lost connection."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from convokit import AsyncConvokit
from convokit.server import allow_anyone, create_app
from convokit.testing import ScriptedReply
from tests.clients.conftest import StartGateway
from tests.clients.installed import make_environment
from tests.support.gateway import MODEL

PART = ["京都は", "秋が", "いちばん", "きれいです。🍁"]
RunExample = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["python", "node"])
def run_example(request: pytest.FixtureRequest, checkout: Path, tmp_path: Path) -> RunExample:
    """Return a function that runs the example of a language against a gateway."""
    if request.param == "python":
        folder: Path = request.getfixturevalue("python_programs")
        command = [str(folder / "python"), str(checkout / "examples" / "gateway_client.py")]
    else:
        folder = request.getfixturevalue("node_folder")
        shutil.copy(checkout / "examples" / "gateway_client.mjs", folder)  # it finds the packages beside it
        command = ["node", str(folder / "gateway_client.mjs")]

    def run(base_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = make_environment(str(tmp_path), {"OPENAI_BASE_URL": base_url, "CONVOKIT_MODEL": MODEL})
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_an_example_continues_its_conversation(start_gateway: StartGateway, run_example: RunExample) -> None:
    gateway = start_gateway([ScriptedReply(PART), "Yes."])
    done = run_example(gateway.base_url, "kyoto", "秋は?")
    assert (done.stdout, done.stderr) == ("".join(PART) + "\n", "")
    assert run_example(gateway.base_url, "kyoto", "Really?").stdout == "Yes.\n"
    (conversation,) = gateway.list_stored()
    assert (conversation.key, conversation.texts) == ("kyoto", ["秋は?", "".join(PART), "Really?", "Yes."])
    assert [each["content"] for each in gateway.model.last_request.messages] == ["秋は?", "".join(PART), "Really?"]


def test_an_example_reads_on_after_a_lost_connection(start_gateway: StartGateway, run_example: RunExample) -> None:
    """Every connection breaks after a few messages. No character is missing, and none comes twice."""
    text = [f"{number} 京都 " for number in range(30)]
    gateway = start_gateway([ScriptedReply(text, pause_s=0.02)], make_app=make_breaking_app)
    done = run_example(gateway.base_url, "kyoto", "秋は?")
    assert (done.stdout, done.stderr) == ("".join(text) + "\n", "")
    assert gateway.app.broken > 0
    (conversation,) = gateway.list_stored()
    assert conversation.texts == ["秋は?", "".join(text)]
    assert len(gateway.model.requests) == 1


def test_an_example_reports_an_error(start_gateway: StartGateway, run_example: RunExample) -> None:
    gateway = start_gateway(["Hello."])
    done = run_example(f"{gateway.root_url}/v2", "kyoto", "秋は?")
    assert done.returncode == 1
    assert "404" in done.stderr
    assert gateway.count_stored() == []


class BreakingApp:
    """The gateway behind a network on which the first three streams break."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.broken = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        count = 0
        is_stream = False

        async def send_or_break(message: Any) -> None:
            nonlocal count, is_stream
            if message["type"] == "http.response.start":
                is_stream = any(b"event-stream" in value for _, value in message["headers"])
            count += is_stream
            if count > 4 and self.broken < 3:
                self.broken += 1
                raise OSError("the connection is lost")
            await send(message)

        await self._app(scope, receive, send_or_break)


def make_breaking_app(kit: AsyncConvokit) -> BreakingApp:
    """Return a gateway whose connections break."""
    return BreakingApp(create_app(kit, auth=allow_anyone))
