"""Options that select tests, and fixtures: both databases, both APIs, and a model server on a loopback port."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.dont_write_bytecode:  # compiling every module in each test process and child takes longer than many tests
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

import pytest
from hypothesis import HealthCheck, settings

from tests.support import selection
from tests.support.databases import Files, Postgres
from tests.support.faces import Face
from tests.support.server import LoopbackServer
from tests.support.statements import share_compiled

pytest_plugins = ["convokit.testing.fixtures"]

for _name, _count in (("dev", 50), ("ci", 300)):
    settings.register_profile(_name, max_examples=_count, deadline=None)
settings.register_profile("soak", max_examples=40_000, deadline=None, suppress_health_check=list(HealthCheck))


def pytest_addoption(parser: pytest.Parser) -> None:
    selection.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, where no Ctrl-C could be tested
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not config.getoption("--matrix"):
        share_compiled()
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("soak" if config.getoption("--soak") else "ci" if config.getoption("--matrix") else "dev")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection.select(config, items)


def pytest_collection_finish() -> None:
    gc.freeze()  # no collection of garbage during the tests visits the modules and the collected tests again


@pytest.fixture(scope="session")
def effort(pytestconfig: pytest.Config) -> selection.Effort:
    """How much a test tries that has many points or rounds: "quick", with --soak-sample "sample", with --soak "soak"."""
    return selection.effort(pytestconfig)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CONVOKIT_DATABASE_URL", "CONVOKIT_MODEL", "CONVOKIT_LOCAL_GGUF"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def files() -> Iterator[Files]:
    folder = Files()
    yield folder
    folder.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_database(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with nothing in it, on each backend."""
    yield from _database(backend, request, "empty")


@pytest.fixture
def database(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database, on each backend."""
    yield from _database(backend, request, "migrated")


@pytest.fixture
def twin(backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Another database of the same id as `database`: as a backup that was restored is one."""
    yield from _database(backend, request, "migrated")


def _database(backend: str, request: pytest.FixtureRequest, state: str) -> Iterator[str]:
    if backend == "sqlite":
        files: Files = request.getfixturevalue("files")
        yield files.empty() if state == "empty" else files.migrated()
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.empty() if state == "empty" else server.migrated()
    yield url
    server.release(url)


@pytest.fixture
def sqlite_file(files: Files) -> str:
    """A migrated SQLite file, for what concerns SQLite alone."""
    return files.migrated()


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    made = Face(str(request.param))
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    running = LoopbackServer().start()
    yield running
    running.stop()


@pytest.fixture
def kit(face: Face, database: str, server: LoopbackServer) -> Any:
    """A kit of each face on each database, against the loopback server."""
    return face.kit(database, model="loop-1", base_url=server.url)


@pytest.fixture
def checkout() -> Path:
    """The project's own folder."""
    return Path(__file__).resolve().parent.parent
