"""Record `convokit demo` as an animated SVG for the README.

    uv run --group dev python scripts/record_demo.py

The script runs the demo in a pseudo-terminal, and draws its output at the times at which it came. Only long waits are
shortened. The drawing is plain SVG with CSS animations, which browsers also play in an <img>.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
FILES = {"en": IMAGES / "demo.svg", "ja": IMAGES / "demo.ja.svg"}
TITLES = {
    "en": "convokit demo: a killed reply is finished, found, altered, and the altered row is named",
    "ja": "convokit demo: 中断した返答の再開、検索、改ざんの検出",
}
_COLUMNS, _ROWS = 100, 28
_CELL, _LINE, _MARGIN = 8.4, 19, 16
_MAX_WAIT_S = 1.5
_FRAME_S = 0.04
_LAST_FRAME_S = 6.0
_FONTS = (
    "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK JP', 'Osaka-Mono', "
    "'MS Gothic', 'Noto Sans CJK JP', 'Hiragino Sans', monospace"
)
_COLOURS = {1: "#ff7b72", 2: "#7ee787", 3: "#e3b341", 4: "#79c0ff", 5: "#d2a8ff", 6: "#76e3ea"}
_FOREGROUND, _BACKGROUND, _DIM = "#e6edf3", "#0d1117", "#9198a1"


@dataclass(frozen=True, slots=True)
class Cell:
    """One character of the terminal, its style as CSS, and the time at which it came."""

    character: str
    css: str
    at_s: float


def main() -> None:
    """Record the demo in each language."""
    for language, file in FILES.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(draw_recording(record_demo(language), TITLES[language]), "utf-8")
        sys.stdout.write(f"{file}: {file.stat().st_size / 1000:.0f} kB\n")


def record_demo(language: str) -> list[tuple[float, str]]:
    """Run the demo in a terminal, and return its output with the times of the recording."""
    programs = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment |= {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
    }
    command = ["convokit", "demo", *(["--lang", language] if language != "en" else [])]
    prompt = f"\x1b[36m$ {' '.join(command)}\x1b[0m\r\n"
    with tempfile.TemporaryDirectory() as folder:
        terminal, program_end = pty.openpty()
        fcntl.ioctl(program_end, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        with subprocess.Popen(
            [programs / command[0], *command[1:]],
            cwd=folder,
            env=environment,
            stdin=program_end,
            stdout=program_end,
            stderr=program_end,
        ) as process:
            os.close(program_end)
            chunks = [(0.0, prompt), *_read_chunks(terminal)]
        os.close(terminal)
    if process.returncode:
        raise SystemExit(f"the demo failed with {process.returncode}:\n{''.join(text for _, text in chunks)}")
    return _shorten_waits(chunks)


def _read_chunks(terminal: int) -> list[tuple[float, str]]:
    start, data, ends = time.monotonic(), b"", list[tuple[float, int]]()
    while True:
        try:
            data += os.read(terminal, 65536)
        except OSError:  # Linux reports the end of the last program as an error
            break
        ends.append((time.monotonic() - start, len(data)))
    # A read may end inside a character.
    texts, begin = list[tuple[float, str]](), 0
    for at_s, end in ends:
        text = data[begin:end].decode("utf-8", "ignore")
        begin += len(text.encode())
        texts.append((at_s, text))
    return texts


def _shorten_waits(chunks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    result, clock, last_s = list[tuple[float, str]](), 0.0, 0.0
    for at_s, text in chunks:
        clock += min(at_s - last_s, _MAX_WAIT_S)
        last_s = at_s
        result.append((round(clock / _FRAME_S) * _FRAME_S, text))
    return result


def draw_recording(chunks: list[tuple[float, str]], title: str) -> str:
    """Return the SVG. Without animations it shows the last frame."""
    rows = _lay_out(chunks)
    while rows and not rows[-1]:
        rows.pop()
    duration_s = chunks[-1][0] + _LAST_FRAME_S
    width, height = _COLUMNS * _CELL + 2 * _MARGIN, _ROWS * _LINE + 2 * _MARGIN
    styles = dict[str, str]()
    times = dict[float, str]()
    body = [_draw_row(number, row, styles, times) for number, row in enumerate(rows)]
    begun = [row[0].at_s for row in rows if row]
    scrolls = dict[float, int]()
    at_s = 0.0
    for number, row in enumerate(rows):
        at_s = row[0].at_s if row else at_s
        scrolls[at_s] = max(number + 1 - _ROWS, 0)
    last = max(len(rows) - _ROWS, 0)
    assert begun == sorted(begun), "the terminal only appends"
    frames = "".join(f"{at_s / duration_s:.3%}{{transform:{_move(lines)}}}" for at_s, lines in scrolls.items())
    css = [
        f"text{{font:14px {_FONTS};fill:{_FOREGROUND};white-space:pre}}",
        f"#rows{{transform:{_move(last)};animation:scroll {duration_s:.2f}s step-end infinite}}",
        f"@keyframes scroll{{{frames}100%{{transform:{_move(last)}}}}}",
        *(f".{name}{{{rule}}}" for rule, name in styles.items()),
        *(f".{name}{{animation:{name} {duration_s:.2f}s step-end infinite}}" for name in times.values()),
        *(
            f"@keyframes {name}{{0%{{opacity:0}}{at_s / duration_s:.3%},100%{{opacity:1}}}}"
            for at_s, name in times.items()
        ),
        "@media(prefers-reduced-motion:reduce){#rows,#rows g{animation:none}}",
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" aria-labelledby="title">',
            f'<title id="title">{escape(title)}</title>',
            "<style>",
            *css,
            "</style>",
            f'<rect width="100%" height="100%" rx="8" fill="{_BACKGROUND}"/>',
            f'<svg x="{_MARGIN}" y="{_MARGIN}" width="{width - 2 * _MARGIN:g}" height="{_ROWS * _LINE}">',
            '<g id="rows">',
            *filter(None, body),
            "</g>",
            "</svg>",
            "</svg>",
            "",
        ]
    )


def _move(lines: int) -> str:
    return f"translateY({-lines * _LINE}px)"


def _lay_out(chunks: list[tuple[float, str]]) -> list[list[Cell]]:
    """Return the rows at the end of the recording, with wrapped lines. A wide character is followed by an empty cell."""
    rows: list[list[Cell]] = [[]]
    times = [at_s for at_s, text in chunks for _ in text]
    output = "".join(text for _, text in chunks)
    style, current, position = Style(), 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|[\r\n])", output):
        if part.endswith("m") and part.startswith("\x1b["):
            style = Style() if part in ("\x1b[0m", "\x1b[m") else style + _read_style(part)
        elif part == "\n":
            current += 1
            rows += [[]] if current == len(rows) else []
        elif part == "\x1b[2K":  # a spinner erases itself, and does not appear in the recording
            rows[current] = []
        elif part == "\x1b[1A":
            current -= 1
        elif part.startswith("\x1b") and part not in ("\x1b[?25l", "\x1b[?25h"):
            raise SystemExit(f"the recording cannot show {part!r}")
        elif not part.startswith(("\r", "\x1b")):
            css = _to_css(style)
            for offset, character in enumerate(part):
                cells = cell_len(character)
                if len(rows[current]) + cells > _COLUMNS:
                    current += 1
                    rows.insert(current, [])
                at_s = times[position + offset]
                rows[current] += [Cell(character, css, at_s), *[Cell("", css, at_s)] * (cells - 1)]
        position += len(part)
    return rows


def _read_style(escape_sequence: str) -> Style:
    spans = Text.from_ansi(f"{escape_sequence}x").spans
    return Style.combine(span.style for span in spans if isinstance(span.style, Style))


def _to_css(style: Style) -> str:
    colour = _COLOURS.get((style.color.number or 0) % 8) if style.color is not None else None
    fill = colour or (_DIM if style.dim else None)
    return (f"fill:{fill};" if fill else "") + ("font-weight:bold;" if style.bold else "")


def _draw_row(number: int, row: list[Cell], styles: dict[str, str], times: dict[float, str]) -> str:
    """Return the texts of a row, in a group for each time. Each text has one style, and characters of one width."""
    baseline = number * _LINE + 14
    placed = [(column, cell) for column, cell in enumerate(row) if cell.character]
    groups = []
    for at_s, group in groupby(placed, key=lambda each: each[1].at_s):
        texts = []
        for (css, wide), run in groupby(group, key=lambda each: (each[1].css, cell_len(each[1].character))):
            cells = list(run)
            for piece in re.finditer(r"\S+(?: \S+)*", "".join(cell.character for _, cell in cells)):
                x, length = cells[piece.start()][0] * _CELL, len(piece.group()) * wide * _CELL
                name = f' class="{styles.setdefault(css, f"s{len(styles)}")}"' if css else ""
                texts.append(
                    f'<text x="{x:.4g}" y="{baseline}"{name} textLength="{length:.4g}" lengthAdjust="spacingAndGlyphs">'
                    f"{escape(piece.group(), quote=False)}</text>"
                )
        if texts:
            groups.append(f'<g class="{times.setdefault(at_s, f"t{len(times)}")}">{"".join(texts)}</g>')
    return "".join(groups)


if __name__ == "__main__":
    main()
