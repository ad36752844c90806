"""Files to import: read line by line, or JSON value by JSON value, with no more of them in memory than one record."""

from __future__ import annotations

import codecs
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from convokit.errors import BadRecord, SettingsError, TransferFailed

RECORD_CHARS = 256 * 1024 * 1024
"""The most that one record of a file may take."""
_CHUNK = 64 * 1024
_BLANK = " \t\r\n"
_LONGEST_TOKEN = 16
"""No word or escape of JSON is longer: a mistake nearer to the text's end may be one that was cut."""


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def strict_json(text: str) -> Any:
    """Return a JSON value. Raises: ValueError, RecursionError."""
    return _DECODER.decode(text)


class Source:
    """A file to import, open for reading. `line` is the number of the line read last."""

    def __init__(self, given: str | Path | IO[Any]) -> None:
        self._given = given
        self.path = Path(given) if isinstance(given, str | Path) else None
        self.name = str(given) if self.path is not None else str(getattr(given, "name", "the file given"))
        if self.path is None and not hasattr(given, "read"):
            raise SettingsError("source", f"must be a path or a text file, not {type(given).__name__}")
        self._file: Any = None
        self._spooled: Any = None
        self._start: Any = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.line = 0
        self.done = 0
        self.size: int | None = None

    def open(self, *, twice: bool = False) -> None:
        """Open it; `twice` makes sure that `rewind` works, with a temporary copy of a pipe. Raises: TransferFailed."""
        try:
            if self.path is not None:
                self._file = open(self.path, "rb")  # noqa: SIM115  # closed by close()
                self.size = os.fstat(self._file.fileno()).st_size
            else:
                self._file = self._given
            if twice and not self._file.seekable():
                self._spooled = self._copied()
            elif twice:
                self._start = self._file.tell()
        except (OSError, ValueError) as error:
            raise self._failed(error) from None

    def _copied(self) -> Any:
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        while piece := self._file.read(_CHUNK):
            copy.write(piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece)
        self.size = copy.tell()
        copy.seek(0)
        return copy

    def _failed(self, error: Exception) -> TransferFailed:
        return TransferFailed(self.name, f"cannot be read ({getattr(error, 'strerror', None) or error})")

    def rewind(self) -> None:
        """Begin again."""
        (self._spooled or self._file).seek(self._start)
        self.line = self.done = 0

    def readline(self) -> str:
        """Return the next line with its end; empty at the file's end. Raises: BadRecord, TransferFailed."""
        try:
            found = (self._spooled or self._file).readline(RECORD_CHARS + 1)
        except UnicodeDecodeError:
            raise self.bad("is not UTF-8 text", self.line + 1) from None
        except (OSError, ValueError) as error:
            raise self._failed(error) from None
        self.line += bool(found)
        self.done += len(found)
        if len(found) > RECORD_CHARS:
            raise TransferFailed(
                self.name, f"is over {RECORD_CHARS:,} characters long, the most there may be", self.line
            )
        return self._text(found)

    def read(self, count: int) -> str:
        """Return about so many characters; empty at the file's end. Raises: BadRecord, TransferFailed."""
        try:
            found = self._file.read(count)
        except UnicodeDecodeError:
            raise self.bad("is not UTF-8 text", self.line + 1) from None
        except (OSError, ValueError) as error:
            raise self._failed(error) from None
        first, self.done = self.done == 0, self.done + len(found)
        if isinstance(found, bytes):
            try:
                text = self._decoder.decode(found, final=not found)
            except UnicodeDecodeError:
                raise self.bad("is not UTF-8 text", self.line + 1) from None
            found = text if text or not found else self.read(count)
        assert isinstance(found, str)
        return found.removeprefix("\ufeff") if first else found

    def _text(self, found: str | bytes) -> str:
        if isinstance(found, bytes):
            try:
                found = found.decode("utf-8")
            except UnicodeDecodeError:
                raise self.bad("is not UTF-8 text") from None
        return found.removeprefix("\ufeff") if self.line == 1 else found

    def bad(self, problem: str, line: int | None = None) -> BadRecord:
        """Return the error for what is wrong at a line."""
        return BadRecord(self.name, problem, self.line if line is None else line)

    def close(self) -> None:
        """Close what was opened here."""
        if self._spooled is not None:
            self._spooled.close()
        if self.path is not None and self._file is not None:
            self._file.close()


def elements(source: Source, begun: str = "") -> Iterator[tuple[int, Any]]:
    """Yield the values of a file that is one JSON array, each with the line it begins in. `begun` was read already.

    Raises: BadRecord where the file is no JSON any more: what follows cannot be read either.
    """
    reader = _Values(source, begun)
    if reader.peek() != "[":
        raise source.bad("is not a JSON array", 1)
    reader.take()
    while reader.peek() != "]":
        yield reader.value()
        if reader.peek() == ",":
            reader.take()
            if reader.peek() == "]":
                raise reader.broken("a value is missing after the comma")
        elif reader.peek() != "]":
            raise reader.broken("expected a comma or the array's end")
    reader.take()
    if reader.peek():
        raise reader.broken("something follows the array")


class _Values:
    """JSON values from a buffer that begins at the next one to read, and grows until that one is whole."""

    def __init__(self, source: Source, begun: str) -> None:
        self._source = source
        self._buffer = begun
        self._at = 0
        self._line = max(source.line, 1)
        self._decode = _DECODER.raw_decode

    def peek(self) -> str:
        """Return the next character that is not blank; empty at the file's end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _BLANK:
                self._line += self._buffer[self._at] == "\n"
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._grow():
                return ""

    def take(self) -> None:
        """Step over the character that was just peeked."""
        self._at += 1

    def value(self) -> tuple[int, Any]:
        """Return the next value, and the line it begins in."""
        number = self.peek() not in '{["'
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                if _is_final(error, len(self._buffer)) or not self._grow():
                    raise self.broken(getattr(error, "msg", None) or "a value that cannot be read") from None
                continue
            if number and end == len(self._buffer) and self._grow():  # it may go on
                continue
            line = self._line
            self._line += self._buffer.count("\n", 0, end)
            self._buffer, self._at = self._buffer[end:], 0
            return line, value

    def _grow(self) -> bool:
        """Read as much again as there is: so reading a long value again and again costs twice its length at most."""
        rest = self._buffer[self._at :]
        if len(rest) > RECORD_CHARS:
            raise self.broken(f"a record is over {RECORD_CHARS:,} characters long, the most there may be")
        piece = self._source.read(max(_CHUNK, len(rest)))
        self._buffer, self._at = rest + piece, 0
        return bool(piece)

    def broken(self, problem: str) -> BadRecord:
        """Return the error for what is no JSON."""
        return self._source.bad(f"is not JSON: {problem}", self._line)


def _is_final(error: Exception, length: int) -> bool:
    """Whether more text would not help: the mistake is not where the text ends."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated") and error.pos < length - _LONGEST_TOKEN
