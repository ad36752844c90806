"""Fixtures: clients of the gateway, and gateways whose every response is validated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.clients.answers import answer
from tests.clients.installed import HERE, ClientProgram, install_node, install_python
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.openai_schemas import validate_exchange

StartGateway = Callable[..., RunningGateway]
Connect = Callable[..., OpenAI]


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("clients")


@pytest.fixture
def start_gateway(sqlite_file: str) -> Iterator[StartGateway]:
    """Return a function that starts a gateway. After the test, every response fits the schemas of OpenAI and Open Responses."""
    started: list[RunningGateway] = []
    with ExitStack() as stack:

        def start(script: Any = answer, *, database: str = sqlite_file, **options: Any) -> RunningGateway:
            started.append(stack.enter_context(running_gateway(database, script, **options)))
            return started[-1]

        yield start
    for gateway in started:
        for exchange in gateway.exchanges:
            validate_exchange(exchange)


@pytest.fixture
def gateway(start_gateway: StartGateway) -> RunningGateway:
    """A gateway on a SQLite file. Its model answers as `answers.py` says."""
    return start_gateway()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes a client of OpenAI's package for Python."""
    with ExitStack() as stack:

        def make(
            base_url: str, headers: dict[str, str] | None = None, *, api_key: str = "key", retries: int = 0
        ) -> OpenAI:
            client = OpenAI(base_url=base_url, api_key=api_key, default_headers=headers, max_retries=retries)
            return stack.enter_context(client)

        yield make


@pytest.fixture(scope="session")
def python_programs() -> Path:
    """The folder with the programs of the Python clients' environment."""
    return install_python()


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """The folder with the JavaScript clients."""
    return install_node()


def _start_python(folder: Path, name: str) -> Iterator[ClientProgram]:
    program = ClientProgram([folder / "python", HERE / "programs" / f"{name}.py"])
    yield program
    program.close()


def _start_node(folder: Path, name: str) -> Iterator[ClientProgram]:
    program = ClientProgram(["node", folder / "programs" / f"{name}.mjs"])
    yield program
    program.close()


@pytest.fixture(scope="module")
def langchain_chat(python_programs: Path) -> Iterator[ClientProgram]:
    """LangChain's `ChatOpenAI`."""
    yield from _start_python(python_programs, "langchain_chat")


@pytest.fixture(scope="module")
def openai_agents(python_programs: Path) -> Iterator[ClientProgram]:
    """The OpenAI Agents SDK."""
    yield from _start_python(python_programs, "openai_agents")


@pytest.fixture(scope="module")
def openai_node(node_folder: Path) -> Iterator[ClientProgram]:
    """OpenAI's package for Node."""
    yield from _start_node(node_folder, "openai_node")


@pytest.fixture(scope="module")
def ai_sdk(node_folder: Path) -> Iterator[ClientProgram]:
    """The Vercel AI SDK."""
    yield from _start_node(node_folder, "ai_sdk")
