"""What `import convokit` costs, against what it stands on: CPU time, memory and modules, each in a process of its own.

`python -m tests.benchmarks.startup [ROUNDS] [--write PAGE]`. The measure is `import sqlalchemy, pydantic, httpx`; the openai
package, alone and with the ORM, is there to compare. Medians, interleaved, byte code compiled beforehand.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from tests.benchmarks import page

PROGRAM = """
import json, resource, sys, time
began = time.process_time()
exec(sys.argv[1])
taken = time.process_time() - began
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
extras = ("typer", "rich", "alembic", "splintr", "tiktoken", "genai_prices", "psycopg", "sqlalchemy.orm")
unwanted = [name for name in extras if name in sys.modules]
print(json.dumps([taken * 1000, own / 1024, len(sys.modules), unwanted]))
"""
IMPORTS = {
    "sqlalchemy, pydantic, httpx": "import sqlalchemy, pydantic, httpx",
    "convokit": "import convokit",
    "openai": "import openai",
    "openai, sqlalchemy.orm": "import openai, sqlalchemy.orm",
}


def once(statement: str) -> tuple[float, float, int, list[str]]:
    """Import in a fresh process: milliseconds, megabytes, modules, and those that nobody asked for."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, statement], capture_output=True, text=True, check=True)
    milliseconds, megabytes, modules, unwanted = json.loads(ran.stdout)
    return milliseconds, megabytes, modules, unwanted


def main(rounds: int = 11) -> str:
    """Print the table and return it."""
    taken: dict[str, list[tuple[float, float, int, list[str]]]] = {name: [] for name in IMPORTS}
    for statement in IMPORTS.values():
        once(statement)
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            taken[name].append(once(statement))
    base = statistics.median(each[0] for each in taken["sqlalchemy, pydantic, httpx"])
    lines = []
    for name, times in taken.items():
        milliseconds = statistics.median(each[0] for each in times)
        megabytes = statistics.median(each[1] for each in times)
        line = [f"`{name}`", f"{milliseconds:.0f}", f"{milliseconds / base:.2f}", f"{megabytes:.0f}", str(times[0][2])]
        lines.append([*line, ", ".join(times[0][3]) or "none"])
    head = ["import", "ms", "against the first", "MB", "modules", "not needed, loaded"]
    table = page.table(head, lines)
    print(table)
    return table


if __name__ == "__main__":
    page.run("startup", main)
