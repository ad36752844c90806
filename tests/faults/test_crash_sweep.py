"""SQLite's writes, one by one: the process is killed at each, or the disk refuses it."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.faults import jobs, oracles, recovery_checks, strace
from tests.faults.fork_server import ForkServer, Outcome
from tests.support.selection import Effort, keep, spread

SEED = 1
"""Fixed: which points are tried without --soak."""
CHAT = "k"
KILLED = "signal=SIGKILL"

pytestmark = [
    pytest.mark.soak(sample=True),
    pytest.mark.skipif(strace.MISSING, reason="strace is not installed"),
]


class Sweep:
    """Runs all turns under strace on a file that is made anew each time."""

    def __init__(self, fork_server: ForkServer, file: Path, server: jobs.Server, effort: Effort) -> None:
        self._fork_server = fork_server
        self._file = file
        self._empty = file.read_bytes()
        self._effort = effort
        self._server = server
        self.url = f"sqlite:///{file}"
        fork_server.warm("sync", self.url, server.url)

    def run(self, fault: str | None = None, at: strace.Point | None = None, *, early: bool = False) -> Outcome:
        """Return the outcome of one run on a new file."""
        self._server.requests.clear()
        for suffix in ("-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        self._file.write_bytes(self._empty)
        arguments = {"url": self.url, "server": self._server.url, "chat": CHAT, "early": early}
        return strace.run(self._fork_server, self._file, fault, at, "all_turns", **arguments).check()

    def check(self, outcome: Outcome) -> oracles.Found:
        """Check what a run left behind."""
        with self._finisher() as finisher:
            return finisher.check(CHAT, outcome)

    def finish(self, outcome: Outcome, *, later_first: bool) -> None:
        """Check what a run left behind, finish it, and check again."""
        with self._finisher() as finisher:
            finisher.check(CHAT, outcome)
            finisher.finish(CHAT, jobs.TURNS, later_first=later_first)

    def _finisher(self) -> contextlib.closing[recovery_checks.Finisher]:
        return contextlib.closing(recovery_checks.Finisher("sync", self.url, self._server))

    def points(self, every: int) -> list[strace.Point]:
        """Return where to strike: at each sync, truncation and removal, and at each `every`-th write; at all in a soak.

        A quick run strikes at three of them.
        """
        outcome = self.run()
        assert outcome.all("reply") == [jobs.reply_to(each) for each in jobs.TURNS]
        self.check(outcome)
        found = strace.points(self._file)
        syncs = [each for each in found if each[0] != "pwrite64"]
        assert len(found) > 150, "the turns write less than they used to: is the tracing right?"
        assert len(syncs) > 8, "less than one sync a commit"
        if self._effort == "soak":
            return found
        writes = [each for each in found if each[0] == "pwrite64"][random.Random(SEED).randrange(every) :: every]
        print(f"seed {SEED}: {len(writes)} of the writes, {len(syncs)} syncs")
        chosen = [each for each in found if each in syncs or each in writes]
        return chosen if self._effort == "sample" else spread(chosen, 5)[1:-1]


@pytest.fixture
def sweep(fork_server: ForkServer, sqlite_file: str, far_server: jobs.Server, effort: Effort) -> Sweep:
    file = Path(str(make_url(sqlite_file).database))
    return Sweep(fork_server, file, far_server, effort)


@pytest.mark.parametrize("later_first", keep([False, True], False), ids=["repeats first", "a later question first"])
def test_killed_at_any_write(sweep: Sweep, later_first: bool) -> None:
    """Killed before any write to the file or its log: the file is sound, nothing told is lost, nothing the server saw is
    unrecorded, the next send goes at once, and repeated under their keys all turns are there once with one reply."""
    for point in sweep.points(5):
        outcome = sweep.run(KILLED, point)
        try:
            sweep.finish(outcome, later_first=later_first)
        except Exception as error:
            error.add_note(f"killed at {point}; it had told {outcome.said}")
            raise


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("refusal", ["EIO", "ENOSPC"])
def test_refused_at_any_write(sweep: Sweep, refusal: str) -> None:
    """A disk that refuses one write ends in a typed error or in none, never in another; nothing told is lost, the file is
    sound, and the same process goes on as soon as the disk does."""
    refused = 0
    for point in sweep.points(10):
        outcome = sweep.run(f"error={refusal}", point)
        assert outcome.status == 0, outcome.errors
        assert set(outcome.all("error")) <= {"StoreFull", "StoreUnavailable"}, outcome.said
        refused += bool(outcome.all("error"))
        oracles.check_once(sweep.check(outcome), {each: jobs.reply_to(each) for each in jobs.TURNS})
    assert refused > 5


@pytest.mark.soak(sample=True)
def test_the_sweep_sees_what_is_lost(sweep: Sweep) -> None:
    """The control: a reply that is told before it is committed is missed at some point, or the sweep proves nothing."""
    broken: list[str] = []
    for point in sweep.points(10):
        outcome = sweep.run(KILLED, point, early=True)
        try:
            sweep.check(outcome)
        except oracles.Broken as error:
            broken.append(str(error))
            break
    assert "acknowledged, and lost (assistant)" in "".join(broken)
