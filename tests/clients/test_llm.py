"""The `llm` command line before a gateway: each command is a process that sends the whole history."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.answers import KINDS_OF_ADDRESS, PLAIN, WEATHER, make_headers
from tests.clients.installed import make_environment
from tests.support.gateway import MODEL, RunningGateway

TOOL = '''
def get_weather(location: str) -> str:
    """Return the weather at a place."""
    return f"sunny in {location}"
'''
RunLlm = Callable[..., str]


def make_llm(programs: Path, folder: Path, base_url: str, headers: dict[str, str]) -> RunLlm:
    """Return a function that runs `llm` with arguments, and returns what it prints."""
    model = {
        "model_id": "gateway",
        "model_name": MODEL,
        "api_base": base_url,
        "headers": headers,
        "supports_tools": True,
    }
    (folder / "extra-openai-models.yaml").write_text(f"- {json.dumps(model)}\n", "utf-8")
    environment = make_environment(str(folder), {"LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "key"})

    def run(*arguments: str) -> str:
        command = [str(programs / "llm"), "-m", "gateway", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(params=KINDS_OF_ADDRESS)
def run_llm(request: pytest.FixtureRequest, gateway: RunningGateway, python_programs: Path, tmp_path: Path) -> RunLlm:
    """The command line for a kind of address."""
    return make_llm(python_programs, tmp_path, gateway.base_url, make_headers(request.param))


def test_llm_continues_a_conversation(gateway: RunningGateway, run_llm: RunLlm) -> None:
    first, *others = PLAIN.texts
    assert [run_llm(first), *(run_llm("-c", text) for text in others)] == PLAIN.replies
    PLAIN.check(gateway, system=None)


def test_llm_runs_tools(gateway: RunningGateway, run_llm: RunLlm) -> None:
    first, second = WEATHER.texts
    tool = ("--functions", TOOL, "--no-stream")
    assert [run_llm(*tool, first), run_llm("-c", *tool, second)] == WEATHER.replies
    WEATHER.check(gateway)
