"""What an adapter does for whoever measures it: `fill`, then `turn` as often as it is told to over its standard input.

An adapter is `python adapter.py URL FOLDER HISTORY`. It says "ready" when the history is there; a number on its input is how
many turns to take, and it answers with their wall and CPU times in milliseconds, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable

QUESTION = "some eighty words of an ordinary message, as they are typed. " * 8
ANSWER = "A reply of some words, as they come."
KEPT = 20
"""How many messages a request takes along, where a library can be told."""


def serve(fill: Callable[[int], None], turn: Callable[[], str]) -> None:
    """Fill the history, then take turns as told until the input ends."""
    fill(int(sys.argv[3]))
    for _ in range(5):
        turn()
    print("ready", flush=True)
    for line in sys.stdin:
        walls, cpus = [], []
        for _ in range(int(line)):
            wall, cpu = time.perf_counter(), time.process_time()
            assert turn()
            walls.append((time.perf_counter() - wall) * 1000)
            cpus.append((time.process_time() - cpu) * 1000)
        print(json.dumps([walls, cpus]), flush=True)
