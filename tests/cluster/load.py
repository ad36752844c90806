"""Send turns in many conversations at once, and check afterwards that each acknowledged one is stored once."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import psycopg

from convokit import Convokit
from convokit.errors import ConvokitError

_PLACEMENT = (
    "SELECT nodeport FROM citus_shards WHERE table_name = 'convokit_conversation'::regclass"
    " AND shardid = get_shard_id_for_distribution_column('convokit_conversation', %s)"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that was acknowledged. Times are of `time.monotonic`."""

    question: str
    reply: str
    started: float
    ended: float


@dataclass(slots=True)
class Load:
    """Threads that send turns, one in each conversation. Use it in a `with` block; then call `check`."""

    url: str
    base_url: str
    keys: list[str]
    turns: dict[str, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    errors: list[ConvokitError] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _kit: Convokit | None = None

    def __enter__(self) -> Load:
        self._kit = Convokit(self.url, model="loop-1", base_url=self.base_url, developer_prompt="Be brief.")
        for key in self.keys:  # all conversations, and the prompt, are there before a fault
            self._send(key, 0)
        self._threads = [threading.Thread(target=self._run, args=(key,)) for key in self.keys]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self._kit is not None
        self._kit.close()

    def wait_for_turns(self) -> None:
        """Wait until a turn has begun and ended in each conversation."""
        now = time.monotonic()
        while not all(any(turn.started > now for turn in self.turns[key]) for key in self.keys):
            assert time.monotonic() < now + 60, "a conversation stands still"
            time.sleep(0.01)

    def check(self) -> None:
        """Check that no call failed, and that each question and each reply is stored once."""
        assert self.errors == [], self.errors
        with Convokit(self.url, model="loop-1") as kit:
            for key in self.keys:
                chat = kit.chat(key)
                messages = chat.messages(limit=None)
                stored = {role: Counter(each.text for each in messages if each.role == role) for role in _ROLES}
                acknowledged = self.turns[key]
                assert stored["user"] == Counter(turn.question for turn in acknowledged), key
                assert stored["assistant"] == Counter(turn.reply for turn in acknowledged), key
                chat.verify()

    def find_workers(self) -> dict[str, int]:
        """Return the port of the worker that has each conversation."""
        assert self._kit is not None
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = {}
            for key in self.keys:
                conversation = self._kit.conversation(key)
                assert conversation is not None
                row = connection.execute(_PLACEMENT, (conversation.id,)).fetchone()
                assert row is not None
                found[key] = row[0]
            return found

    def _run(self, key: str) -> None:
        number = 1
        while not self._stop.is_set():
            self._send(key, number)
            number += 1

    def _send(self, key: str, number: int) -> None:
        assert self._kit is not None
        question, started = f"{key} question {number}", time.monotonic()
        chat = self._kit.chat(key)
        try:
            if number % 2:
                with chat.stream(question) as events:
                    reply = "".join(event.text for event in events)
            else:
                reply = chat.send(question).text
        except ConvokitError as error:
            self.errors.append(error)
            time.sleep(0.1)
            return
        self.turns[key].append(Turn(question, reply, started, time.monotonic()))


_ROLES = ("user", "assistant")
