"""Give pytest a scripted model, and kits on a new SQLite file.

Name the module in the `conftest.py` at the root of your tests:

    pytest_plugins = ["convokit.testing.fixtures"]

| fixture | value |
|---|---|
| `scripted_model` | a `ScriptedModel` that echoes; `scripted_model.add(...)` scripts the next replies |
| `convokit_kit` | a `Convokit` on a migrated file in `tmp_path`, answered by `scripted_model` |
| `async_convokit_kit` | an `AsyncConvokit` on the same file, answered by the same model |
| `convokit_settings` | the arguments of both kits; override it to pass your own |
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convokit.async_kit import AsyncConvokit
from convokit.domain.profiles import DEFAULT_BASE_URL
from convokit.kit import Convokit
from convokit.testing.scripted_model import ScriptedModel

__all__ = ["async_convokit_kit", "convokit_file", "convokit_kit", "convokit_settings", "scripted_model"]


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated file to copy: a copy takes less time than a migration."""
    file = tmp_path_factory.mktemp("convokit") / "migrated.db"
    with Convokit(file) as kit:
        kit.migrate()
    return file


@pytest.fixture
def convokit_file(_migrated_file: Path, tmp_path: Path) -> Path:
    """Return a migrated SQLite file of this test."""
    return Path(shutil.copyfile(_migrated_file, tmp_path / "convokit.db"))


@pytest.fixture
def convokit_settings() -> dict[str, Any]:
    """Return the arguments of both kits. A fixture of this name in your own tests replaces this one."""
    return {}


@pytest.fixture
def scripted_model() -> ScriptedModel:
    """Return a model that echoes, until the test adds replies."""
    return ScriptedModel()


@pytest.fixture
def convokit_kit(
    convokit_file: Path, scripted_model: ScriptedModel, convokit_settings: dict[str, Any]
) -> Iterator[Convokit]:
    """Yield a kit on a file of this test, answered by `scripted_model`."""
    settings = {**_DEFAULTS, "http_client": scripted_model.client(), **convokit_settings}
    with Convokit(convokit_file, **settings) as kit:
        yield kit


@pytest.fixture
def async_convokit_kit(
    convokit_file: Path, scripted_model: ScriptedModel, convokit_settings: dict[str, Any]
) -> Iterator[AsyncConvokit]:
    """Yield an asynchronous kit on a file of this test, answered by `scripted_model`.

    The fixture itself needs no plugin for asyncio.
    """
    settings = {**_DEFAULTS, "http_client": scripted_model.async_client(), **convokit_settings}
    kit = AsyncConvokit(convokit_file, **settings)
    yield kit
    # asyncio.run would take the current event loop away from the tests that follow.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(kit.close())


# The base URL is given, so that a test does not depend on OPENAI_BASE_URL.
_DEFAULTS: dict[str, Any] = {"model": "gpt-6-luna", "base_url": DEFAULT_BASE_URL, "api_key": "test"}
