"""Run the scenarios of a client: one line of JSON names a scenario and its arguments, one line is its result."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def serve(*scenarios: Callable[..., Any]) -> None:
    """Run scenarios until the input ends. What a library prints goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    named = {each.__name__: each for each in scenarios}
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            result = named[arguments.pop("scenario")](**arguments)
            answer = {"result": asyncio.run(result) if inspect.iscoroutine(result) else result}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer, ensure_ascii=False), file=answers, flush=True)
