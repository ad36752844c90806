"""What the window's strategy does to the input bill, by the cache rules of the providers: a simulation.

`python -m tests.benchmarks.pricing [--write PAGE]`: a conversation of 300 turns in a window of 8,000 tokens, each prompt
selected by the real strategies, and billed by each rule. No network, no clock, no chance: the same numbers every time.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from convokit.context.strategy import Everything, Item, LastTurns, StepWindow, Strategy, View, find_replayed_start
from convokit.tokens.counter import REPLY_PRIMER
from tests.benchmarks import page

TURNS = 300
WINDOW = 8_000
RESERVE = 1_024
DEVELOPER_PROMPT = 400
_READ_BACK = 120
"""Messages given to a strategy that bounds itself: far more than ever fit."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a provider bills the input: a prefix seen before costs `read` a token, what is new `write`.

    Prefixes count from `minimum` tokens, in steps of `block`; prompts below the minimum are never written.
    """

    name: str
    minimum: int
    block: int
    read: float
    write: float = 1.0

    def served(self, common: int) -> int:
        """Return how much of a prefix that was sent before comes from the cache."""
        return common // self.block * self.block if common >= self.minimum else 0

    def bill(self, prompt: int, common: int) -> float:
        """Return what a prompt costs, in tokens at the full price."""
        hit = self.served(common)
        return hit * self.read + (prompt - hit) * (self.write if prompt >= self.minimum else 1.0)


RULES = (
    Rule("OpenAI, 0.1", 1024, 128, 0.1),
    Rule("OpenAI, 0.25", 1024, 128, 0.25),
    Rule("OpenAI, 0.5", 1024, 128, 0.5),
    Rule("writes at 1.25", 1024, 1, 0.1, 1.25),
    Rule("DeepSeek", 64, 64, 0.02),
    Rule("Gemini", 4096, 1, 0.1),
)


@dataclass(frozen=True, slots=True)
class Contender:
    """A strategy with its step; None is the default step.

    `held` says that a request knows the start of the last one, as in a conversation that is stored. `replayed` says that each
    request finds its start from the whole history, as for a list of messages.
    """

    name: str
    strategy: Strategy
    step: int | None = None
    held: bool = False
    replayed: bool = False


SLIDING = Contender("sliding (`Everything`)", Everything())
DEFAULT = Contender("default step", StepWindow(), held=True)
QUARTER = Contender("step of a quarter", StepWindow(), WINDOW // 4, held=True)
HALF = Contender("step of a half", StepWindow(), WINDOW // 2, held=True)
REPLAYED = Contender("default step, start not stored", StepWindow(), replayed=True)
CONTENDERS = (
    Contender("step of an eighth", StepWindow(), WINDOW // 8, held=True),
    DEFAULT,
    QUARTER,
    HALF,
    SLIDING,
    Contender("last 20 messages (`LastTurns(10)`)", LastTurns(10)),
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: its tokens; how long its longest beginning is that any earlier prompt had, and that the last one had.

    `history` is what it holds of earlier turns.
    """

    tokens: int
    common: int
    with_last: int
    history: int


def constant(turn: int) -> int:
    """Keep the same room for every reply."""
    return RESERVE


def alternating(turn: int) -> int:
    """Keep room for a long reply every other turn."""
    return RESERVE if turn % 2 else 3 * RESERVE


def conversation(turns: int = TURNS) -> list[Item]:
    """Return questions and replies: 120 and 290 tokens on average, many short and a few long."""
    chance = random.Random(2026)
    items: list[Item] = []
    before = 0
    for key in range(2 * turns):
        role, least, mean = ("user", 20, 100) if key % 2 == 0 else ("assistant", 40, 250)
        tokens = min(least + int(chance.expovariate(1 / mean)), RESERVE)
        items.append(Item(key, {"role": role}, tokens, before))
        before += tokens
    return items


@cache  # tables and tests ask for the same conversations
def simulate(contender: Contender, reserve: Callable[[int], int] = constant, turns: int = TURNS) -> list[Prompt]:
    """Return the prompts of the whole conversation."""
    items = conversation(turns)
    fixed = DEVELOPER_PROMPT + REPLY_PRIMER
    sent: dict[int, int] = {}
    prompts: list[Prompt] = []
    floor: int | None = None
    last: int | None = None
    for turn in range(turns):
        question = items[2 * turn]
        first = floor or 0 if contender.held or contender.replayed else max(0, question.key - _READ_BACK)
        available = WINDOW - reserve(turn) - fixed
        path = items[first : question.key + 1]
        view = View(path, available, contender.step, complete=first == 0, held_start=floor, counter="tokens")
        if contender.replayed:
            view = replace(view, held_start=find_replayed_start(view))
        start = path[contender.strategy.select(view).start]
        end = question.tokens_before + question.tokens
        # An earlier prompt that began at the same message is a beginning of this one; any other shares the fixed part.
        common = sent[start.key] - start.tokens_before if start.key in sent else 0
        shared = fixed if sent else 0
        with_last = shared + (common if start.key == last else 0)
        prompts.append(
            Prompt(
                fixed + end - start.tokens_before,
                shared + common,
                with_last,
                question.tokens_before - start.tokens_before,
            )
        )
        sent[start.key], last = end, start.key
        floor = start.key if contender.held else None
    return prompts


def share(prompts: list[Prompt], rule: Rule) -> float:
    """Return how much of all prompts came from the cache."""
    return sum(rule.served(each.common) for each in prompts) / sum(each.tokens for each in prompts)


def one_slot(prompts: list[Prompt]) -> float:
    """Return how much a cache serves that holds the last prompt only, as a local server's slot does."""
    return sum(each.with_last for each in prompts) / sum(each.tokens for each in prompts)


def bill(prompts: list[Prompt], rule: Rule) -> float:
    """Return what all prompts cost, in tokens at the full price."""
    return sum(rule.bill(each.tokens, each.common) for each in prompts)


def kept(prompts: list[Prompt], sliding: list[Prompt]) -> float:
    """Return how much history was sent, against the sliding window's."""
    return sum(each.history for each in prompts) / sum(each.history for each in sliding)


def by_rule() -> str:
    """Return the table of bills, in percent of the sliding window's."""
    sliding = simulate(SLIDING)
    rows = []
    for contender in CONTENDERS:
        prompts = simulate(contender)
        bills = [f"{bill(prompts, rule) / bill(sliding, rule):.0%}" for rule in RULES]
        rows.append([contender.name, f"{share(prompts, RULES[0]):.0%}", f"{kept(prompts, sliding):.0%}", *bills])
    return page.table(("strategy", "from cache", "history kept", *(rule.name for rule in RULES)), rows)


def by_memory() -> str:
    """Return the table for a reply reserve that alternates: a cache of many prompts, and one of the last prompt."""
    sliding = simulate(SLIDING, alternating)
    rows = []
    for contender in (DEFAULT, REPLAYED, QUARTER, HALF, SLIDING):
        prompts = simulate(contender, alternating)
        shares = [f"{share(prompts, RULES[0]):.0%}", f"{one_slot(prompts):.0%}"]
        rows.append([contender.name, *shares, f"{kept(prompts, sliding):.0%}"])
    return page.table(("strategy", "many prompts cached", "the last one only", "history kept"), rows)


def main() -> None:
    """Print the tables, and write that of the bills into a page where one is given."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pricing")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    chosen = parser.parse_args()
    bills = by_rule()
    print(bills, by_memory(), sep="\n\n")
    if chosen.write is not None:
        page.put(chosen.write, "simulated", bills)


if __name__ == "__main__":
    main()
