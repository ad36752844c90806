"""What observers cost in a plain turn and in a stream: none, one that does nothing, one with content, OpenTelemetry.

`python -m tests.benchmarks.observers [ROUNDS]`. Each kit has its own SQLite file, and the kits take turns in one run. Medians
of CPU time of this process. The server runs in a second process and answers at once. Two kits without observers show the noise.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from convokit import Convokit
from convokit.observers import Observer
from convokit.telemetry import OpenTelemetryObserver
from tests.benchmarks import engines, page
from tests.benchmarks.server import running

QUESTION = "A question as long as one is on average, made of the words that people use most of the time. " * 6
CHUNKS = 50


class _Reading(Observer):
    include_content = True


def _make_observers() -> dict[str, list[Observer]]:
    recording = OpenTelemetryObserver(
        tracer_provider=TracerProvider(), meter_provider=MeterProvider([InMemoryMetricReader()])
    )
    return {
        "none": [],
        "none again": [],
        "one that does nothing": [Observer()],
        "one with content": [_Reading()],
        "OpenTelemetry with its SDK": [recording],
    }


def _run(kit: Any, *, streamed: bool) -> float:
    """Make a turn, and return the CPU time that it took, in milliseconds."""
    began = time.process_time()
    if streamed:
        with kit.chat("k").stream(QUESTION) as events:
            for _ in events:
                pass
    else:
        kit.chat("k").send(QUESTION)
    return (time.process_time() - began) * 1000


def main(rounds: int) -> None:
    """Print the table."""
    times: dict[tuple[str, bool], list[float]] = {}
    with ExitStack() as stack:
        url = stack.enter_context(running(CHUNKS))
        makers = stack.enter_context(engines.makers("sqlite"))
        kits = {
            name: stack.enter_context(Convokit(makers["sqlite"](), model="bench", base_url=url, observers=observers))
            for name, observers in _make_observers().items()
        }
        for number in range(-10, rounds):
            for name, kit in kits.items():
                for streamed in (False, True):
                    taken = _run(kit, streamed=streamed)
                    if number >= 0:  # after what is done once
                        times.setdefault((name, streamed), []).append(taken)
    rows = []
    for name in kits:
        plain, stream = (statistics.median(times[name, each]) for each in (False, True))
        base = [statistics.median(times["none", each]) for each in (False, True)]
        rows.append([name, f"{plain:.2f}", f"{plain / base[0]:.3f}", f"{stream:.2f}", f"{stream / base[1]:.3f}"])
    head = ["observers", "a turn, ms", "against none", f"a stream of {CHUNKS} chunks, ms", "against none"]
    print(page.table(head, rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
