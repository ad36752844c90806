"""Reading a streamed reply: convokit (saved in SQLite as it comes) against itself without a database, against raw httpx, and
against the openai package.

`python -m tests.benchmarks.stream [CHUNKS] [ROUNDS]`: CPU time of this process, medians, all in one interleaved run. What
saving costs is "convokit" by "nothing saved": the same turn, with a store that takes everything and keeps nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
from sqlalchemy.dialects import sqlite

from convokit import Convokit
from convokit.domain.ids import new_id
from tests.benchmarks.server import running

BODY = {"model": "bench", "messages": [{"role": "user", "content": "go"}], "stream": True}


def raw(client: httpx.Client, url: str) -> int:
    """By hand: lines, json.loads, the text joined."""
    pieces = []
    with client.stream("POST", f"{url}/chat/completions", json=BODY) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    pieces.append(choices[0]["delta"]["content"])
    return len("".join(pieces))


def sdk(client: openai.OpenAI) -> int:
    """The openai package."""
    stream = client.chat.completions.create(model="bench", messages=[{"role": "user", "content": "go"}], stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    return len("".join(pieces))


def ours(kit: Convokit) -> int:
    """convokit, with everything on: question, pieces and reply saved, chain, token counts."""
    with kit.chat().stream("go") as events:
        pieces = [event.text for event in events]
    return len("".join(pieces))


def first_raw(client: httpx.Client, url: str) -> float:
    """Return the seconds until the first piece of text, by hand."""
    began = time.perf_counter()
    with client.stream("POST", f"{url}/chat/completions", json=BODY) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return time.perf_counter() - began
    raise AssertionError("no text came")


def first_ours(kit: Convokit) -> float:
    """Return the seconds until the first piece of text: question, turn and call are committed before."""
    began = time.perf_counter()
    with kit.chat().stream("go") as events:
        for event in events:
            if event.text:
                return time.perf_counter() - began
    raise AssertionError("no text came")


class Nothing:
    """A database that accepts every statement, keeps nothing, and finds nothing."""

    rowcount = 1
    dialect = sqlite.dialect()

    def run(self, call: Callable[[Any], Any], *, write: bool) -> Any:
        """As the store's: hand out a connection, and no transaction."""
        return call(self)

    def execute(self, statement: object, values: object = None) -> Nothing:
        return self

    def get_execution_options(self) -> dict[str, Any]:
        return {}

    def one_or_none(self) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def close(self) -> None:
        pass


def unsaved(url: str) -> Convokit:
    """Return a kit whose turns are kept nowhere."""
    kit = Convokit("sqlite:///none.db", model="bench", base_url=url)
    kit._runtime._store = Nothing()  # type: ignore[assignment]
    kit._state.database.id = new_id()
    return kit


def measure(chunks: int, rounds: int) -> tuple[dict[str, list[float]], list[tuple[float, float]]]:
    """Return CPU seconds by contender, and the seconds to the first piece by hand and of convokit."""
    with running(chunks) as url, tempfile.TemporaryDirectory() as folder:
        client = httpx.Client()
        official = openai.OpenAI(base_url=url, api_key="none")
        kit = Convokit(f"sqlite:///{Path(folder) / 'bench.db'}", model="bench", base_url=url)
        kit.migrate()
        forgetful = unsaved(url)
        contenders: dict[str, Callable[[], int]] = {
            "raw httpx": lambda: raw(client, url),
            "nothing saved": lambda: ours(forgetful),
            "convokit": lambda: ours(kit),
            "openai": lambda: sdk(official),
        }
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        lengths = {name: run() for name, run in contenders.items()}
        assert len(set(lengths.values())) == 1, lengths
        for _ in range(rounds):
            for name, run in contenders.items():
                began = time.process_time()
                run()
                taken[name].append(time.process_time() - began)
        first = [(first_raw(client, url), first_ours(kit)) for _ in range(4 * rounds)]
        kit.close()
        forgetful.close()
        client.close()
        official.close()
    return taken, first


def main() -> None:
    """Print the table."""
    chunks = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    times, first = measure(chunks, rounds)
    taken = {name: statistics.median(each) for name, each in times.items()}
    base, unsaved_s = taken["raw httpx"], taken["nothing saved"]
    print(f"{chunks:,} chunks, CPU, median of {rounds}")
    for name, seconds in taken.items():
        per_chunk = seconds / chunks * 1e6
        ratios = f"{seconds / base:6.2f} x raw {seconds / unsaved_s:6.2f} x nothing saved"
        print(f"{name:13} {seconds * 1000:9.1f} ms {per_chunk:7.1f} us a chunk {ratios}")
    by_hand, own = (statistics.median(each) * 1000 for each in zip(*first, strict=True))
    print(f"first piece, wall: by hand {by_hand:.2f} ms, convokit {own:.2f} ms, {own / by_hand:.2f} x")


if __name__ == "__main__":
    main()
