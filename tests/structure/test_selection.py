"""The default run and the second step divide the tests between them: no test is left out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.support.selection import select


class FakeItem:
    """What `select` reads of a test: its id, its parameters and its marks."""

    def __init__(
        self, name: str, *params: str, marks: tuple[pytest.Mark, ...] = (), fixtures: tuple[str, ...] = ()
    ) -> None:
        self.nodeid = f"tests/test_x.py::{name}[{'-'.join(params)}]"
        self.callspec = type("CallSpec", (), {"params": dict(enumerate(params))})()
        self.stash = pytest.Stash()
        self.fixturenames = fixtures
        self._marks = marks

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self._marks if mark.name == name]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next(iter(self.iter_markers(name)), None)


class FakeConfig:
    """A configuration with some options given. It keeps what was deselected."""

    def __init__(self, *given: str) -> None:
        self._given = given
        self.hook = self
        self.deselected: list[FakeItem] = []

    def getoption(self, name: str) -> bool:
        return name in self._given

    def pytest_deselected(self, items: list[FakeItem]) -> None:
        self.deselected = items


ONCE = pytest.mark.once.mark
ONCE_EXCEPT_FIRST = pytest.mark.once(except_first=True).mark
SOAK = pytest.mark.soak.mark
SAMPLE = pytest.mark.soak(sample=True).mark
BACKENDS_AND_APIS = [("sqlite", "sync"), ("sqlite", "async"), ("postgresql", "sync"), ("postgresql", "async")]


def make_items() -> list[FakeItem]:
    """Return tests of every kind, as pytest collects them."""
    items = [FakeItem("plain", *pair) for pair in BACKENDS_AND_APIS]
    items += [FakeItem("once", *pair, marks=(ONCE,)) for pair in BACKENDS_AND_APIS]
    for case in ("first", "second"):
        items += [FakeItem("cases", *pair, case, marks=(ONCE_EXCEPT_FIRST,)) for pair in BACKENDS_AND_APIS]
    items += [FakeItem("matrix", *pair, marks=(pytest.mark.matrix.mark,)) for pair in BACKENDS_AND_APIS]
    items += [FakeItem("soak", marks=(SOAK,)), FakeItem("sample", marks=(SAMPLE,)), FakeItem("neither")]
    items += [FakeItem("effort", fixtures=("effort",))]
    return items


def run(*options: str) -> list[str]:
    """Return the ids of the tests that a run with these options takes."""
    items = make_items()
    select(cast("Any", FakeConfig(*options)), cast("Any", items))
    return [item.nodeid.partition("::")[2] for item in items]


def test_the_default_run_takes_pairs_and_no_soak_test() -> None:
    assert run() == [
        "plain[sqlite-sync]",
        "plain[postgresql-async]",
        "once[sqlite-sync]",
        "cases[sqlite-sync-first]",
        "cases[postgresql-async-first]",
        "cases[sqlite-sync-second]",
        *(f"matrix[{'-'.join(pair)}]" for pair in BACKENDS_AND_APIS),
        "neither[]",
        "effort[]",
    ]


def test_the_second_step_takes_what_the_default_run_left() -> None:
    assert run("--matrix", "--soak-sample", "--skip-default") == [
        "plain[sqlite-async]",
        "plain[postgresql-sync]",
        "once[postgresql-async]",
        "cases[postgresql-async-second]",
        "sample[]",
        "effort[]",
    ]


def test_both_steps_and_the_soak_tests_take_everything() -> None:
    both = {*run(), *run("--matrix", "--soak", "--skip-default")}
    assert both == {item.nodeid.partition("::")[2] for item in make_items()}


def test_what_is_left_out_is_reported_as_deselected() -> None:
    items, config = make_items(), FakeConfig()
    everything = list(items)
    select(cast("Any", config), cast("Any", items))
    assert [item for item in everything if item not in items] == config.deselected


@pytest.mark.parametrize("mark", ["cluster", "clients"])
@pytest.mark.parametrize("given", [(), ("--matrix", "--soak"), "itself", "other"])
def test_a_cluster_and_clients_are_started_on_request_only(mark: str, given: tuple[str, ...] | str) -> None:
    """No other option starts servers or installs packages."""
    options = {"itself": (f"--{mark}",), "other": ("--clients" if mark == "cluster" else "--cluster",)}
    items: list[Any] = [FakeItem("faults", marks=(getattr(pytest.mark, mark).mark,)), FakeItem("plain")]
    select(cast("Any", FakeConfig(*(options[given] if isinstance(given, str) else given))), items)
    is_run = given == "itself"
    assert len(items) == 1 + is_run
