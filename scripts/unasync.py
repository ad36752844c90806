"""Generate the synchronous classes from the asynchronous ones: `python scripts/unasync.py [--check]`.

`convokit/async_kit.py`, `convokit/async_chat.py` and `tests/typing/async_methods.py`, which calls their methods, are written by
hand. This script replaces their tokens and writes the synchronous files. With `--check` it writes nothing and fails if a
generated file is not current, or if a rule is never used.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    "convokit/async_kit.py": "convokit/kit.py",
    "convokit/async_chat.py": "convokit/chat.py",
    "tests/typing/async_methods.py": "tests/typing/methods.py",
}
NOTE = "# Generated from {} by scripts/unasync.py. Change that file, then run the script.\n"
NAMES = {
    "AsyncConvokit": "Convokit",
    "AsyncChat": "Chat",
    "AsyncClient": "Client",
    "AsyncRuntime": "Runtime",
    "AsyncStream": "Stream",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aio": "sync",
    "async_chat": "chat",
}
"""Names in code, each replaced where it is a whole token."""
TEXTS = {
    "AsyncHttpxClient(httpx.AsyncClient(": "HttpxClient(httpx.Client(",
    ", asynchronous.": ", synchronous.",
    "the asynchronous classes": "the synchronous classes",
}
"""Texts in docstrings."""
used: set[str] = set()


def convert(source: str) -> str:
    """Return the synchronous form of an asynchronous module."""
    tokens = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string
        if token.type == tokenize.NAME and text in ("async", "await"):
            used.add(text)
            text = ""
        elif token.type == tokenize.NAME and text in NAMES:
            used.add(text)
            text = NAMES[text]
        elif token.type == tokenize.STRING:
            for old, new in TEXTS.items():
                if old in text:
                    used.add(old)
                    text = text.replace(old, new)
        tokens.append((token, text))
    return _join(source, tokens)


def _join(source: str, tokens: list[tuple[tokenize.TokenInfo, str]]) -> str:
    """Return the source with each token replaced by its text; a removed token takes the blank behind it along."""
    lines = source.splitlines(keepends=True)
    for token, text in reversed(tokens):
        if text == token.string:
            continue
        (row, start), (end_row, end) = token.start, token.end
        if not text:
            end += len(re.match(r" *", lines[end_row - 1][end:])[0])  # type: ignore[index]  # it always matches
        before, after = lines[row - 1][:start], lines[end_row - 1][end:]
        lines[row - 1 : end_row] = [before + text + after]
    return "".join(lines)


def format_source(source: str, name: str) -> str:
    """Return the source as `ruff` formats it, its imports sorted."""
    ruff = [sys.executable, "-m", "ruff"]
    checked = [*ruff, "check", "--select", "I", "--fix", "--quiet", "--stdin-filename", str(ROOT / name), "-"]
    formatted = [*ruff, "format", "--quiet", "--stdin-filename", str(ROOT / name), "-"]
    for command in (checked, formatted):
        source = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    return source


def main() -> int:
    """Write the generated files, or with `--check` compare them. Return 0 if they are current."""
    check = "--check" in sys.argv[1:]
    stale = []
    for asynchronous, synchronous in FILES.items():
        source = (ROOT / asynchronous).read_text("utf-8")
        generated = format_source(NOTE.format(Path(asynchronous).name) + convert(source), synchronous)
        target = ROOT / synchronous
        if not target.exists() or target.read_text("utf-8") != generated:
            stale.append(synchronous)
            if not check:
                target.write_text(generated, "utf-8")
    unused = {"async", "await", *NAMES, *TEXTS} - used
    for name in sorted(unused):
        sys.stderr.write(f"scripts/unasync.py: the rule for {name!r} is never used\n")
    for name in stale:
        sys.stdout.write(f"{'stale: run python scripts/unasync.py' if check else 'written'}: {name}\n")
    return 1 if unused or (check and stale) else 0


if __name__ == "__main__":
    raise SystemExit(main())
