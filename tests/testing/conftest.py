"""Connect kits and scripted models, in process and over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from convokit import Retry
from convokit.testing import ScriptedModel
from tests.support.faces import Face

Connect = Callable[..., Any]


@pytest.fixture(params=["in process", "url"])
def connect(request: pytest.FixtureRequest, face: Face, sqlite_file: str) -> Iterator[Connect]:
    """Return a function that makes a kit of each API for a model, over each transport."""
    with ExitStack() as stack:

        def make_kit(model: ScriptedModel, /, **settings: Any) -> Any:
            if request.param == "url":
                reached: dict[str, Any] = {"base_url": stack.enter_context(model.serve())}
            else:
                client = model.client() if face.name == "sync" else model.async_client()
                reached = {"base_url": "http://127.0.0.1/v1", "http_client": client}
            return face.kit(sqlite_file, **{"model": "gpt-4o", "retry": Retry(attempts=1), **reached, **settings})

        yield make_kit
