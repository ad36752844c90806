"""How full the window is: prompt tokens that the server counts, in percent of the input budget.

`python -m tests.benchmarks.window [TURNS] [BUDGET …] [--attacks] [--write PAGE]` plays conversations of 200 turns over six
corpora with budgets of 4k, 8k, 32k and 128k and three counters. The server runs in this process and counts exactly. It reports
usage and refuses longer prompts with status 400. `--vocabulary qwen3` counts with another vocabulary.

`--attacks` plays servers without usage, with noisy and absurd reports, a change of the model, and pastes. `--local` plays
against the small local model and reads what its cache served.

Growth is the mean of what a request adds. The other figures are of the requests after the window was first full. "Repeated" is
the share of prompt tokens in messages with which the previous request began as well.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from convokit import Budget
from convokit.errors import ConvokitError
from convokit.tokens import CharacterEstimate
from tests.benchmarks import page
from tests.benchmarks.corpora import make_conversation
from tests.benchmarks.counting_model import (
    COUNTERS,
    Played,
    input_budget,
    open_kit,
    play,
    report_absurdly,
    report_noise,
    report_nothing,
    report_ten,
)
from tests.benchmarks.llama import serving
from tests.support.token_counts import VOCABULARY

TURNS = 200
BUDGETS = (4_000, 8_000, 32_000, 128_000)
GROWTH = 0.04
"""Of the input budget, in o200k_base: the mean tokens that a request adds."""
CORPORA = ("English", "Japanese", "code", "tools", "images", "mixed")
LOCAL_REPLY = 50
_MARKS = 10
"""Tokens around a question and a reply."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The lowest shares that are good, and how many requests may exceed the input budget."""

    fill: float = 0.75
    before: float = 0.90
    shared: float = 0.85
    exceeding: int = 0


SILENT = Bounds(0.55, 0.65, 0.75)
"""For an estimate that no usage corrects."""


def find_bounds(corpus: str, budget: int, growth: float) -> Bounds:
    """Return the bounds for requests that add at most 5 %. Larger ones leave more of the window empty."""
    large = growth > 0.05
    fill = 0.72 if large or (corpus == "images" and budget <= 4_000) else 0.75
    return Bounds(fill=fill, shared=0.83 if large or budget <= 4_000 else 0.85)


def judge(played: Played, bounds: Bounds) -> str:
    """Return "ok" or "BAD"."""
    if not played.moves:
        return "not full"
    good = played.fill >= bounds.fill and played.before >= bounds.before and played.shared >= bounds.shared
    exceeding = played.over + played.refused
    return "ok" if good and exceeding <= bounds.exceeding and not played.failed else "BAD"


def show(played: Played, verdict: str) -> list[str]:
    """Return the cells of a result."""
    shares = [f"{share:.2f}" for share in (played.fill, played.before, played.shared)]
    return [" / ".join(shares), f"{played.over} / {played.refused} / {played.failed}", verdict]


HEAD = ("fill / before a move / repeated", "over / refused / failed", "")


def measure_corpus(turns: int, vocabulary: str, case: tuple[int, str]) -> list[list[str]]:
    """Return a line with a cell for each counter. Requests that went wrong are those of all counters."""
    budget, corpus = case
    conversation = make_conversation(corpus, turns, int(input_budget(budget) * GROWTH))
    played = [play(conversation, budget, counter=counter, vocabulary=vocabulary) for counter in COUNTERS]
    cells = []
    for each in played:
        shares, _, verdict = show(each, judge(each, find_bounds(corpus, budget, each.growth)))
        cells.append(f"{shares} {verdict}")
    wrong = [
        sum(each.over for each in played),
        sum(each.refused for each in played),
        sum(each.failed for each in played),
    ]
    return [[f"{budget:,}", corpus, f"{played[0].growth:.1%}", *cells, " / ".join(map(str, wrong))]]


ATTACKS: dict[str, dict[str, Any]] = {
    "no usage": {"report": report_nothing},
    "always 10": {"report": report_ten},
    "noise of 2 %": {"report": report_noise},
    "some 10, some 3x": {"report": report_absurdly},
    "model switch to qwen3": {"second": "qwen3"},
    "model switch to mistral_v1": {"second": "mistral_v1"},
    "pastes of 30 %": {},
}
"""Faults of servers, and sudden changes. After a switch to a model with more tokens for the same text, 2 % of the requests may
exceed the input budget, until the new model has reported.
"""


def measure_attack(turns: int, vocabulary: str, case: tuple[int, str]) -> list[list[str]]:
    """Return a line for each corpus and counter."""
    budget, attack = case
    tokens, lines = int(input_budget(budget) * GROWTH), []
    paste = int(input_budget(budget) * 0.3) if attack.startswith("pastes") else 0
    for corpus in ("English", "Japanese", "mixed"):
        conversation = make_conversation(corpus, turns, tokens, paste=paste)
        for counter in ("estimate", "exact"):
            played = play(conversation, budget, counter=counter, vocabulary=vocabulary, **ATTACKS[attack])
            bounds = find_bounds(corpus, budget, played.growth)
            if attack in ("no usage", "always 10") and counter == "estimate":
                bounds = SILENT
            elif attack.startswith("model switch"):
                bounds = replace(bounds, exceeding=max(turns // 50, 1))
            line = [attack, f"{budget:,}", corpus, f"{played.growth:.1%}", counter]
            lines.append([*line, *show(played, judge(played, bounds))])
    return lines


def measure_local(turns: int, budget: int = 4_000) -> str:
    """Return the table of a conversation with the local model, whose language changes."""
    available = budget - LOCAL_REPLY
    played = Played(available)
    with serving(1, budget + 1024) as llama:
        settings = {"base_url": f"{llama.url}/v1", "model": llama.model, "profile": "llama.cpp"}
        options = {"temperature": 0.0, "max_output_tokens": LOCAL_REPLY, "counter": CharacterEstimate()}
        with open_kit(None, Budget(context_tokens=budget, reply_tokens=LOCAL_REPLY), **settings, **options) as kit:
            start, written = None, 0
            for exchange in make_conversation("mixed", turns, int(available * GROWTH)):
                try:
                    reply = kit.chat("local").send(exchange.question)
                except ConvokitError as error:
                    played.failed += 1
                    print(error)
                    continue
                assert reply.context is not None
                moved = start not in (None, reply.context.start)
                prompt, cached = reply.usage.prompt_tokens or 0, reply.usage.cached_tokens or 0
                added = written + llama.counter.count(str(exchange.question)) + _MARKS
                played.note(prompt, cached, added, moved=moved)
                start, written = reply.context.start, reply.usage.completion_tokens or 0
    verdict = judge(played, find_bounds("mixed", budget, played.growth))
    line = ["SmolLM2-135M", f"{budget:,}", f"{played.growth:.1%}", *show(played, verdict)]
    whole = f"{sum(played.repeated) / sum(played.prompts):.2f}"
    return page.table(("model", "budget", "growth", *HEAD, "cached, all turns"), [[*line, whole]])


def main() -> None:
    """Measure, print the table, and write it into a page where one is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.window")
    parser.add_argument("turns", nargs="?", type=int, default=TURNS)
    parser.add_argument("budgets", nargs="*", type=int)
    parser.add_argument("--vocabulary", default=VOCABULARY, help="a vocabulary of splintr")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--attacks", action="store_true")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    chosen = parser.parse_args()
    began = time.perf_counter()
    head: tuple[str, ...]
    if chosen.local:
        table = measure_local(chosen.turns)
    elif chosen.attacks:
        head = ("server", "budget", "corpus", "growth", "counter", *HEAD)
        table = _spread(chosen, measure_attack, chosen.budgets or (4_000, 32_000), tuple(ATTACKS), head)
    else:
        head = ("budget", "corpus", "growth", *(f"`{counter}`" for counter in COUNTERS), HEAD[1])
        table = _spread(chosen, measure_corpus, chosen.budgets or BUDGETS, CORPORA, head)
    taken = f"{time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f}"
    print(f"{chosen.turns} turns, {'the local model' if chosen.local else chosen.vocabulary}, {taken}")
    print(table)
    if chosen.write is not None:
        page.put(chosen.write, "fill", table)


def _spread(
    chosen: argparse.Namespace,
    measure: Callable[[int, str, tuple[int, str]], list[list[str]]],
    budgets: Sequence[int],
    names: Sequence[str],
    head: Sequence[str],
) -> str:
    """Return the table of all cases, which the processes share."""
    cases = [(budget, name) for budget in budgets for name in names]
    with ProcessPoolExecutor(chosen.workers) as pool:
        found = list(pool.map(partial(measure, chosen.turns, chosen.vocabulary), cases))
    return page.table(head, [line for lines in found for line in lines])


if __name__ == "__main__":
    main()
