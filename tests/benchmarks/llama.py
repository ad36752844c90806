"""A llama.cpp server with several slots, in a process of its own: a slot keeps the prompt of one conversation.

The server that `convokit chat --local` starts has one slot; where several conversations take turns, each needs its own, or
they would throw one another's prompt out of the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import httpx

from convokit.local.local_model import BUNDLED, find_model_file
from convokit.runtime.tokenizer import TokenizeCounter


@dataclass(frozen=True, slots=True)
class Llama:
    """The server's address, its model's name, its own tokenizer, and its process."""

    url: str
    model: str
    counter: TokenizeCounter
    process: int

    def cpu_s(self) -> float:
        """Return the seconds of CPU the server has used so far (Linux: the clock of another process)."""
        return time.clock_gettime(~self.process << 3 | 2)

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text."""
        answer = httpx.post(f"{self.url}/tokenize", json={"content": text})
        return [int(token) for token in answer.raise_for_status().json()["tokens"]]

    def warm_up(self, slots: int) -> None:
        """Let every slot evaluate something: the first prompt of a process also reads the model from disk."""
        for slot in range(slots):
            body = {"prompt": "once upon a time " * 20, "n_predict": 4, "id_slot": slot}
            httpx.post(f"{self.url}/completion", json=body, timeout=120).raise_for_status()


@contextmanager
def serving(slots: int, context_tokens: int) -> Iterator[Llama]:
    """Serve the model that comes as a wheel, with `slots` slots of `context_tokens` each, until the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.llama"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    settings = {"path": str(find_model_file(None)), "slots": slots, "context_tokens": context_tokens}
    try:
        child.stdin.write(json.dumps(settings) + "\n")
        child.stdin.flush()
        address = child.stdout.readline().strip()
        counter = TokenizeCounter(address, BUNDLED)
        try:
            yield Llama(address, BUNDLED, counter, child.pid)
        finally:
            counter.close()
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


def main() -> None:
    """Serve until the parent goes."""
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    xllamacpp: Any = import_module("xllamacpp")
    chosen = xllamacpp.CommonParams()
    chosen.model.path = settings["path"]
    chosen.n_parallel = settings["slots"]
    chosen.n_ctx = settings["slots"] * settings["context_tokens"]
    chosen.cache_ram_mib = 0  # else a slot is given what another slot evaluated
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = 1  # two would wait for each other on a busy machine
    chosen.hostnames = ["127.0.0.1"]
    chosen.port = 0
    chosen.ui = False
    server = xllamacpp.Server(chosen)
    print(server.listening_address, flush=True)
    threading.Event().wait()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
