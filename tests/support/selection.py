"""Select the tests of a run: pairs or the full product of backend and API, and how many of the soak tests.

The default run takes SQLite with the sync API and PostgreSQL with the async API, and no soak test. `tests/README.md` describes
the options and the markers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings

_BACKENDS = {"sqlite", "postgresql"}
_APIS = {"sync", "async"}
_PAIRS = {("sqlite", "sync"), ("postgresql", "async")}
_ON_REQUEST = ("browser", "cluster", "clients")
"""Marks of tests that run only with the option of the same name."""
Effort = Literal["quick", "sample", "soak"]
Point = TypeVar("Point")
_IS_FIRST = pytest.StashKey[bool]()


def add_options(parser: pytest.Parser) -> None:
    """Add the options that select tests."""
    group = parser.getgroup("convokit")
    group.addoption("--matrix", action="store_true", help="run each test on both backends with both APIs, not pairwise")
    group.addoption(
        "--soak", action="store_true", help="also run all soak tests, on all points and with 40,000 examples"
    )
    group.addoption("--soak-sample", action="store_true", help="also run the soak tests marked with sample=True")
    group.addoption("--cluster", action="store_true", help="also run tests/cluster, which needs a Citus cluster")
    group.addoption(
        "--clients", action="store_true", help="also run tests/clients, which installs clients of the gateway"
    )
    group.addoption("--browser", action="store_true", help="also run tests/browser, which needs Chromium")
    group.addoption(
        "--write-pictures", action="store_true", help="let the tests in tests/browser write the pictures of the docs"
    )
    group.addoption("--skip-default", action="store_true", help="leave out what a run without options has tested")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what this run leaves out."""
    _mark_first_parameters(items)
    left_out = [item for item in items if not _is_selected(config, item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _is_selected(config, item)]


def _mark_first_parameters(items: Iterable[pytest.Item]) -> None:
    """Mark the first parameter that is no soak test, for each test and each pair of backend and API."""
    seen = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        key = (name, *sorted(_parameters(item, _BACKENDS)), *sorted(_parameters(item, _APIS)))
        if key not in seen and item.get_closest_marker("soak") is None:
            seen.add(key)
            item.stash[_IS_FIRST] = True


def _is_selected(config: pytest.Config, item: pytest.Item) -> bool:
    if any(item.get_closest_marker(each) is not None and not config.getoption(f"--{each}") for each in _ON_REQUEST):
        return False
    if config.getoption("--skip-default") and _is_in_default(item):
        return False
    return _is_in_matrix(config, item) and _is_in_soak(config, item)


def _is_in_matrix(config: pytest.Config, item: pytest.Item) -> bool:
    """Return whether this run takes the backend and the API of a test.

    Where the result hardly depends on them (`once`), `--matrix` adds the other pair, and `--soak` the full product.
    """
    if not config.getoption("--matrix"):
        return _is_in_pairs(item)
    return config.getoption("--soak") or item.get_closest_marker("once") is None or _is_pair(item)


def _is_in_default(item: pytest.Item) -> bool:
    """Return whether the default run tests this just as well. Properties and efforts try more in the other runs."""
    if "effort" in getattr(item, "fixturenames", ()) or getattr(
        getattr(item, "obj", None), "is_hypothesis_test", False
    ):
        return False
    return _is_in_pairs(item) and item.get_closest_marker("soak") is None


def _is_in_soak(config: pytest.Config, item: pytest.Item) -> bool:
    marks = list(item.iter_markers("soak"))
    if not marks or config.getoption("--soak"):
        return True
    return bool(config.getoption("--soak-sample")) and all(mark.kwargs.get("sample", False) for mark in marks)


def _is_in_pairs(item: pytest.Item) -> bool:
    if item.get_closest_marker("matrix"):
        return True
    backends, apis = _parameters(item, _BACKENDS), _parameters(item, _APIS)
    once = item.get_closest_marker("once")
    if once and not (once.kwargs.get("except_first", False) and item.stash.get(_IS_FIRST, False)):
        return backends <= {"sqlite"} and apis <= {"sync"}
    return _is_pair(item)


def _is_pair(item: pytest.Item) -> bool:
    backends, apis = _parameters(item, _BACKENDS), _parameters(item, _APIS)
    return not (backends and apis) or (max(backends), max(apis)) in _PAIRS


def _parameters(item: pytest.Item, among: set[str]) -> set[str]:
    """Return the parameters of a test that name a backend or an API, as `among` says."""
    callspec = getattr(item, "callspec", None)
    return set() if callspec is None else {each for each in _flat(callspec.params.values()) if each in among}


def _flat(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        elif isinstance(value, str):
            yield value


def effort(config: pytest.Config) -> Effort:
    """Return how much a test tries that has many points or rounds."""
    if config.getoption("--soak"):
        return "soak"
    return "sample" if config.getoption("--soak-sample") else "quick"


def spread(points: Sequence[Point], count: int) -> list[Point]:
    """Return `count` of the points, at equal distances: the first, the last, and some between."""
    if not points:
        return []
    last = len(points) - 1
    return [points[at] for at in sorted({round(number * last / (count - 1)) for number in range(count)})]


def keep(values: Iterable[Any], *kept: Any, sample: bool = False) -> list[Any]:
    """Return parameters of which only the `kept` ones run by default: the others are soak tests."""
    marks = pytest.mark.soak(sample=sample)
    return [each if each in kept else pytest.param(each, marks=marks) for each in values]


def examples(*, cost: int = 1, shrink: bool = True) -> settings:
    """Return the settings of a property whose examples cost `cost` times as much as others: it is tried on fewer of them."""
    count = max(5, settings().max_examples // cost)
    unhealthy = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    phases = [phase for phase in Phase if shrink or phase is not Phase.shrink]
    return settings(max_examples=count, phases=phases, suppress_health_check=unhealthy)
