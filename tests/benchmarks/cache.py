"""How much of the prompt a server's cache serves: windows that move in steps against windows that slide.

`python -m tests.benchmarks.cache [TURNS] [--write PAGE]`: the same conversation, question by question, under every strategy,
against one llama.cpp server (the `local` group) on which each strategy has a slot of its own. The replies are given
(a grammar of the very tokens), so every strategy has the same history, token for token. What came from the cache and how
long the prompt took is what the server reports; the time to the first token is the caller's, SQLite and all.

`--summary` compares the default without and with a rolling summary instead: the model makes it, in one more slot.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from convokit import Budget, Convokit, Summary, Timeouts
from convokit.context.strategy import Everything, LastTurns, StepWindow, Strategy
from tests.benchmarks import page, talk
from tests.benchmarks.llama import Llama, serving

WINDOW = 1024
REPLY = 64
SUMMARY = 96
SLIDING = "sliding (`Everything`)"


@dataclass(slots=True)
class Contender:
    """A strategy and what was measured under it, turn by turn."""

    name: str
    strategy: Strategy
    step_tokens: int | None = None
    summary: Summary | None = None
    prompt: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    full: list[bool] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    prompt_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def contenders(*, summary: bool) -> list[Contender]:
    """Return what is compared: strategies, or the default without a summary and with one."""
    sliding = Contender(SLIDING, Everything())
    if summary:
        summed = Summary(max_tokens=SUMMARY, params={"extra_body": {"id_slot": 3}})
        return [
            Contender("default step, without a summary", StepWindow()),
            Contender("default step, with `Summary`", StepWindow(), summary=summed),
            sliding,
        ]
    return [
        Contender("default step", StepWindow()),
        Contender("step of a quarter", StepWindow(), WINDOW // 4),
        Contender("step of a half", StepWindow(), WINDOW // 2),
        sliding,
        Contender("last 20 messages (`LastTurns(10)`)", LastTurns(10)),
    ]


@contextmanager
def kit_for(contender: Contender, llama: Llama, slot: int, file: Path) -> Iterator[Convokit]:
    """Open a kit under the contender's strategy, bound to one slot of the server."""
    kit = Convokit(
        f"sqlite:///{file}",
        model=llama.model,
        base_url=f"{llama.url}/v1",
        developer_prompt=talk.PROMPT,
        profile="llama.cpp",
        counter=llama.counter,
        budget=Budget(context_tokens=WINDOW, reply_tokens=REPLY, step_tokens=contender.step_tokens),
        strategy=contender.strategy,
        summary=contender.summary,
        timeouts=Timeouts(first_byte_s=600, stall_s=600, total_s=1200),  # a busy machine evaluates slowly
        temperature=0.0,
        extra_body={"id_slot": slot},
    )
    kit.migrate()
    try:
        yield kit
    finally:
        kit.close()


def ask(kit: Convokit, contender: Contender, llama: Llama, number: int, slot: int, file: Path) -> None:
    """Send one question, and note what the server, the report and the clocks say."""
    question, reply = talk.exchange(number)
    tokens = " ".join(f"<[{token}]>" for token in llama.tokens(reply))
    body = {"id_slot": slot, "grammar": f"root ::= {tokens}"}
    began, cpu = time.perf_counter(), llama.cpu_s()
    first = used = 0.0
    with kit.chat("bench").stream(question, extra_body=body) as events:
        for event in events:
            if event.text and not first:
                first, used = time.perf_counter() - began, llama.cpu_s() - cpu
    said, report = events.reply, events.reply.context
    assert said.text == reply, said.text
    assert report is not None
    assert said.usage.prompt_tokens is not None
    assert said.usage.cached_tokens is not None
    contender.first_ms.append(first * 1000)
    contender.cpu_ms.append(used * 1000)
    contender.prompt_ms.append(prompt_ms(file))
    contender.prompt.append(said.usage.prompt_tokens)
    contender.cached.append(said.usage.cached_tokens)
    contender.history.append(report.tokens - report.fixed_tokens - report.included[-1].tokens)
    contender.full.append(report.dropped_tokens > 0)


def prompt_ms(file: Path) -> float:
    """Return how long the last prompt took the server, as it said and as it was saved with the call."""
    with closing(sqlite3.connect(file)) as connection:
        row = connection.execute("SELECT details FROM convokit_completion ORDER BY started_at DESC LIMIT 1").fetchone()
    return float(json.loads(row[0])["timings"]["prompt_ms"])


def measure(turns: int, *, summary: bool) -> list[Contender]:
    """Return every contender with its measurements, one list entry a turn; the order within a turn rotates."""
    found = contenders(summary=summary)
    slots = len(found) + summary
    with serving(slots, WINDOW) as llama, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        llama.warm_up(slots)
        files = [Path(folder) / f"{slot}.db" for slot in range(len(found))]
        kits = [
            stack.enter_context(kit_for(contender, llama, slot, files[slot])) for slot, contender in enumerate(found)
        ]
        for number in range(turns):
            for place in range(len(found)):
                slot = (place + number) % len(found)
                ask(kits[slot], found[slot], llama, number, slot, files[slot])
            print(f"\rturn {number + 1} of {turns}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return found


def rendered(found: list[Contender]) -> str:
    """Return the table."""
    sliding = next(each for each in found if each.name == SLIDING)
    full = [turn for turn, over in enumerate(sliding.full) if over]
    rows = []
    for each in found:
        evaluated = sum(each.prompt) - sum(each.cached)
        kept = sum(each.history[turn] for turn in full) / max(sum(sliding.history[turn] for turn in full), 1)
        late = sum(each.cached[turn] for turn in full) / max(sum(each.prompt[turn] for turn in full), 1)
        rows.append(
            [
                each.name,
                f"{sum(each.cached) / sum(each.prompt):.0%}",
                f"{late:.0%}",
                f"{kept:.0%}",
                f"{evaluated:,}",
                _median(each.prompt_ms, sliding.prompt_ms),
                _median(each.first_ms, sliding.first_ms),
                _median(each.cpu_ms, sliding.cpu_ms),
                f"{max(each.cpu_ms):,.0f} ms",
            ]
        )
    head = (
        "strategy", "from cache", "once full", "history kept", "tokens evaluated", "prompt", "first token", "its CPU",
        "its CPU at most",
    )  # fmt: skip
    return page.table(head, rows)


def _median(times: list[float], of: list[float]) -> str:
    median, other = statistics.median(times), statistics.median(of)
    return f"{median:,.0f} ms" if times is of else f"{median:,.0f} ms (1/{other / median:.1f})"


def main() -> None:
    """Measure, print the table, and write it into a page where one is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache")
    parser.add_argument("turns", nargs="?", type=int, default=60)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--summary", action="store_true")
    either.add_argument("--write", type=Path, metavar="PAGE")
    chosen = parser.parse_args()
    before = os.getloadavg()[0]
    found = measure(chosen.turns, summary=chosen.summary)
    sliding = next(each for each in found if each.name == SLIDING)
    text = rendered(found)
    print(f"{chosen.turns} turns, window full from turn {sliding.full.index(True) + 1 if any(sliding.full) else '-'}")
    print(f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(text)
    if chosen.write is not None:
        page.put(chosen.write, "measured", text)


if __name__ == "__main__":
    main()
