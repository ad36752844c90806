"""Import the programs of `examples/` as a script beside them would."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def load_example(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, convokit_file: Path
) -> Iterator[Callable[[str], Any]]:
    """Return a function that imports `examples/<path>.py` anew. CONVOKIT_DATABASE_URL is the file of this test."""
    examples = checkout / "examples"
    monkeypatch.setenv("CONVOKIT_DATABASE_URL", str(convokit_file))
    known = set(sys.modules)

    def load(path: str) -> Any:
        file = examples / f"{path}.py"
        monkeypatch.syspath_prepend(file.parent)
        return importlib.import_module(file.stem)

    yield load
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(examples)):
            del sys.modules[name]
