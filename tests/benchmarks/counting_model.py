"""Play conversations against a model server in this process, which counts exactly and refuses what is too long."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convokit import Budget, Convokit, Retry
from convokit.completion.effects import OpenRequest, ResponseHead
from convokit.errors import ConvokitError
from convokit.tokens import CharacterEstimate, ExactTokens
from tests.benchmarks import talk
from tests.benchmarks.corpora import Exchange
from tests.support.databases import memory_folder
from tests.support.token_counts import VOCABULARY, count_message, count_reply, count_request

COUNTERS: dict[str, Callable[[], dict[str, Any]]] = {
    "estimate": lambda: {"counter": CharacterEstimate()},
    "default": dict,
    "exact": lambda: {"counter": ExactTokens()},
}
"""The estimate of characters, what an unknown model gets with the `tokens` extra, and o200k_base."""
_FIXED = 2
"""The model and the tools, which are compared before the messages."""


def input_budget(budget: int) -> int:
    """Return the window less the tokens that are kept for the reply."""
    return budget - min(1024, budget // 4)


@dataclass(slots=True)
class _Answer:
    body: bytes
    status: int = 200

    @property
    def head(self) -> ResponseHead:
        return ResponseHead(self.status, {"content-type": "application/json"})

    def read(self, timeout_s: float) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None:
        return


@dataclass(slots=True)
class Played:
    """What a server saw of a conversation: `prompts`, `repeated` and `added` have a number for each request."""

    available: int
    prompts: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    """Indexes of the requests that changed or left out a message of the one before."""
    refused: int = 0
    failed: int = 0

    def note(self, prompt: int, repeated: int, added: int, *, moved: bool) -> None:
        """Add a request that was accepted."""
        if moved:
            self.moves.append(len(self.prompts))
        self.prompts.append(prompt)
        self.repeated.append(repeated)
        self.added.append(added)

    @property
    def growth(self) -> float:
        """Tokens that a request adds, as a share of the input budget."""
        return statistics.mean(self.added[1:] or [0]) / self.available

    @property
    def fill(self) -> float:
        """The mean share of the input budget that a prompt takes."""
        return statistics.mean(self._late(self.prompts)) / self.available

    @property
    def before(self) -> float:
        """The same of the last requests before the window moved."""
        full = [self.prompts[number - 1] for number in self.moves]
        return statistics.mean(full or self.prompts[-1:]) / self.available

    @property
    def shared(self) -> float:
        """The share of prompt tokens that the previous request began with."""
        return sum(self._late(self.repeated)) / sum(self._late(self.prompts))

    @property
    def over(self) -> int:
        """Accepted requests that left the reply too little."""
        return sum(prompt > self.available for prompt in self.prompts)

    def _late(self, values: list[int]) -> list[int]:
        return values[self.moves[0] :] if self.moves else values[-1:]


Report = Callable[[int, int], int | None]
"""Returns what a server reports: of so many prompt tokens, in the request of this number."""


def report_truth(prompt: int, number: int) -> int | None:
    return prompt


def report_nothing(prompt: int, number: int) -> int | None:
    return None


def report_ten(prompt: int, number: int) -> int | None:
    return 10


def report_noise(prompt: int, number: int) -> int | None:
    return round(prompt * random.Random(number).uniform(0.98, 1.02))


def report_absurdly(prompt: int, number: int) -> int | None:
    """Each seventh report is 10, each eleventh is three times the truth."""
    return 10 if number % 7 == 6 else prompt * 3 if number % 11 == 10 else prompt


class CountingModel:
    """A model server in this process, which counts exactly and refuses what is too long.

    `vocabularies` has the vocabulary of each model. `exchange` is the turn that is answered next.
    """

    def __init__(self, budget: int, vocabularies: Mapping[str, str], report: Report = report_truth) -> None:
        self.played = Played(input_budget(budget))
        self.exchange = Exchange("", "")
        self._budget, self._vocabularies, self._report = budget, vocabularies, report
        self._previous: list[Any] = []

    def list_rows(self, query: str) -> str:
        """Look up invoices."""
        return self.exchange.rows

    def open(self, request: OpenRequest) -> _Answer:
        body = json.loads(request.data)
        vocabulary = self._vocabularies[body["model"]]
        prompt = count_request(body, vocabulary)
        if prompt > self._budget:
            self.played.refused += 1
            return _refuse(self._budget, prompt)
        self._note(body, prompt, vocabulary)
        called = self.exchange.rows and body["messages"][-1]["role"] == "user"
        function = {"name": "list_rows", "arguments": '{"query": "open invoices"}'}
        call = {"id": f"call_{len(self.played.prompts)}", "type": "function", "function": function}
        message: dict[str, Any] = {"role": "assistant", "content": None if called else self.exchange.reply}
        message |= {"tool_calls": [call]} if called else {}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if called else "stop"}
        answer: dict[str, Any] = {"id": "x", "model": body["model"], "choices": [choice]}
        reported = self._report(prompt, len(self.played.prompts))
        if reported is not None:
            reply = count_reply(message, vocabulary)
            answer["usage"] = {
                "prompt_tokens": reported,
                "completion_tokens": reply,
                "total_tokens": reported + reply,
            }
        return _Answer(json.dumps(answer).encode())

    def close(self) -> None:
        return

    def _note(self, body: Any, prompt: int, vocabulary: str) -> None:
        """Compare the request with the one before, message by message. The model and the tools come first."""
        items, previous = [body["model"], body.get("tools"), *body["messages"]], self._previous
        pairs = zip(items, previous, strict=False)
        same = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(items), len(previous)))
        tokens = [0, 0, *(count_message(each, vocabulary) for each in body["messages"])]
        repeated = prompt - sum(tokens[same:]) if same >= _FIXED else 0
        known = next((place for place in range(len(items), 0, -1) if previous[-1:] == [items[place - 1]]), 0)
        self.played.note(prompt, repeated, sum(tokens[known:]), moved=0 < same < len(previous))
        self._previous = items


def _refuse(budget: int, prompt: int) -> _Answer:
    text = (
        f"This model's maximum context length is {budget} tokens. However, your messages resulted in {prompt} tokens. "
        "Please reduce the length of the messages."
    )
    error = {
        "message": text,
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    return _Answer(json.dumps({"error": error}).encode(), 400)


@contextmanager
def open_kit(client: Any, budget: Budget, **settings: Any) -> Iterator[Convokit]:
    """Open a kit on a new database, with `client` in place of the HTTP client."""
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        kit = Convokit(
            Path(folder) / "window.db",
            budget=budget,
            developer_prompt=talk.PROMPT,
            durability="fast",
            search=False,
            retry=Retry(retrim=True),
            **({"http_client": client, "base_url": "http://127.0.0.1:1/v1"} if client else {}),
            **settings,
        )
        kit.migrate()
        try:
            yield kit
        finally:
            kit.close()


def play(
    conversation: Sequence[Exchange],
    budget: int,
    *,
    counter: str = "estimate",
    vocabulary: str = VOCABULARY,
    second: str | None = None,
    report: Report = report_truth,
) -> Played:
    """Play a conversation. With `second`, another model of that vocabulary answers from the middle on."""
    model = CountingModel(budget, {"some-model": vocabulary, "other-model": second or vocabulary}, report)
    settings = COUNTERS[counter]()
    if any(exchange.rows for exchange in conversation):
        settings["tools"] = [model.list_rows]
    with open_kit(model, Budget(context_tokens=budget), model="some-model", **settings) as kit:
        chat = kit.chat("window")
        for number, exchange in enumerate(conversation):
            model.exchange = exchange
            name = "other-model" if second and number >= len(conversation) // 2 else "some-model"
            try:
                chat.send(exchange.question, model=name)
            except ConvokitError:
                model.played.failed += 1
    return model.played
