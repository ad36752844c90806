"""Read a file to import, by line or by JSON value."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from convokit.errors import BadRecord, TransferFailed

MAX_RECORD_CHARS = 256 * 1024 * 1024
_CHUNK_SIZE = 64 * 1024
_JSON_WHITESPACE = re.compile(r"[ \t\r\n]*")
# No keyword or escape sequence of JSON is longer. A syntax error closer to the end of a text may come from a cut.
_MAX_TOKEN_CHARS = 16


READ_ERRORS = (
    OSError, ValueError, EOFError, RuntimeError, OverflowError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Exceptions of a file or of a member of a ZIP archive.

A member with a password raises RuntimeError, and a forged position beyond 2**63 OverflowError.
"""
# Returns the suffix and the bytes of an image of at most so many bytes, by its id; None if it is missing or larger.
ImageReader = Callable[[str, int], tuple[str, bytes] | None]


def make_read_error(name: str, error: Exception) -> TransferFailed:
    """Return the error for a file that cannot be read."""
    return TransferFailed(name, f"cannot be read ({getattr(error, 'strerror', None) or error})")


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# Python's decoder accepts NaN and Infinity unless told otherwise.
_DECODER = json.JSONDecoder(parse_constant=_reject_constant)


def parse_json(text: str) -> Any:
    """Parse a JSON value; NaN and Infinity are errors. Raises: ValueError, RecursionError."""
    return _DECODER.decode(text)


def describe_json_error(error: Exception) -> str:
    """Return the problem of a ValueError or RecursionError from a JSON decoder."""
    return "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))


class ImportFile:
    """A file to import. `line` is the number of the last line read. A file that is not `owned` stays open.

    `read_image` reads an image of the same export by its id. `done` is the amount read so far and `size` the total, if known:
    bytes, or characters of a text file.
    """

    def __init__(
        self,
        name: str,
        open_file: Callable[[], IO[Any]],
        read_image: ImageReader,
        *,
        size: int | None = None,
        owned: bool = True,
    ) -> None:
        self.name = name
        self._open_file = open_file
        self.read_image = read_image
        self._is_owned = owned
        self._file: Any = None
        self._temp_copy: Any = None
        self._start: Any = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.line = 0
        self.done = 0
        self.size = size

    def open(self, *, rewindable: bool = False) -> None:
        """Open the file. A pipe is copied to a temporary file if it must be `rewindable`. Raises: TransferFailed."""
        try:
            self._file = self._open_file()
            if rewindable and not self._file.seekable():
                self._temp_copy = self._copy_to_temp()
            elif rewindable:
                self._start = self._file.tell()
        except READ_ERRORS as error:
            raise self._make_read_error(error) from None

    def _copy_to_temp(self) -> Any:
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        while chunk := self._file.read(_CHUNK_SIZE):
            copy.write(chunk.encode("utf-8", "surrogatepass") if isinstance(chunk, str) else chunk)
        self.size = copy.tell()
        copy.seek(0)
        return copy

    def rewind(self) -> None:
        """Go back to the first line."""
        (self._temp_copy or self._file).seek(self._start)
        self.line = self.done = 0

    def hash_lines(self) -> tuple[str, str]:
        """Read all lines. Return the SHA-256 of all but the last one, and the last one. Raises: BadRecord, TransferFailed."""
        digest, last = hashlib.sha256(), ""
        while text := self.readline():
            # A forged file may contain lone surrogates. They are rejected later, with the column's name.
            digest.update(last.encode("utf-8", "surrogatepass"))
            last = text
        return digest.hexdigest(), last

    def readline(self) -> str:
        """Return the next line with its end; empty at the end of the file. Raises: BadRecord, TransferFailed."""
        try:
            line = (self._temp_copy or self._file).readline(MAX_RECORD_CHARS + 1)
        except UnicodeDecodeError:
            # The text file has lost the rest of its buffer, and with it whole lines.
            problem = "is not UTF-8 text; name its path, or open it in binary mode, to skip such lines"
            raise TransferFailed(self.name, problem, self.line + 1) from None
        except READ_ERRORS as error:
            raise self._make_read_error(error) from None
        self.line += bool(line)
        self.done += len(line)
        if len(line) > MAX_RECORD_CHARS:
            raise TransferFailed(
                self.name, f"the line is longer than {MAX_RECORD_CHARS:,} characters, the limit for a record", self.line
            )
        if isinstance(line, bytes):
            try:
                line = line.decode("utf-8")
            except UnicodeDecodeError:
                raise self.make_error("is not UTF-8 text") from None
        assert isinstance(line, str)
        return line.removeprefix("\ufeff") if self.line == 1 else line

    def read(self, count: int) -> str:
        """Return about `count` characters; empty at the end of the file. Raises: BadRecord, TransferFailed."""
        try:
            data = self._file.read(count)
        except UnicodeDecodeError:
            raise self.make_error("is not UTF-8 text", self.line + 1) from None
        except READ_ERRORS as error:
            raise self._make_read_error(error) from None
        is_first, self.done = self.done == 0, self.done + len(data)
        if isinstance(data, bytes):
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError:
                raise self.make_error("is not UTF-8 text", self.line + 1) from None
            # The decoder returns nothing for the first bytes of a character: read on.
            data = text if text or not data else self.read(count)
        assert isinstance(data, str)
        return data.removeprefix("\ufeff") if is_first else data

    def make_error(self, problem: str, line: int | None = None) -> BadRecord:
        """Return the error for a problem in the current line, or in `line`."""
        return BadRecord(self.name, problem, self.line if line is None else line)

    def _make_read_error(self, error: Exception) -> TransferFailed:
        return make_read_error(self.name, error)

    def close(self) -> None:
        """Close the file, unless the caller opened it."""
        if self._temp_copy is not None:
            self._temp_copy.close()
        if self._is_owned and self._file is not None:
            self._file.close()


def read_values(file: ImportFile, buffered: str = "") -> Iterator[tuple[int, Any]]:
    """Yield the values of a file that is one JSON array, each with its first line; or objects that follow each other.

    `buffered` is text read before. Raises: BadRecord for a syntax error. The rest of the file cannot be read then.
    """
    reader = _ValueReader(file, buffered)
    if reader.peek() == "{":
        while reader.peek():
            yield reader.read_value()
        return
    if reader.peek() != "[":
        raise file.make_error("is not a JSON array or object", 1)
    reader.skip()
    while reader.peek() != "]":
        yield reader.read_value()
        if reader.peek() == ",":
            reader.skip()
            if reader.peek() == "]":
                raise reader.make_error("a value is missing after the comma")
        elif reader.peek() != "]":
            raise reader.make_error("expected a comma or the end of the array")
    reader.skip()
    if reader.peek():
        raise reader.make_error("unexpected text after the array")


class _ValueReader:
    """Reads JSON values from a buffer, which grows until the next value is complete."""

    def __init__(self, file: ImportFile, buffered: str) -> None:
        self._file = file
        self._buffer = buffered
        self._index = 0
        self._line = max(file.line, 1)

    def peek(self) -> str:
        """Return the next character that is not whitespace; empty at the end of the file."""
        while True:
            start, self._index = self._index, _skip_whitespace(self._buffer, self._index)
            self._line += self._buffer.count("\n", start, self._index)
            if self._index < len(self._buffer):
                return self._buffer[self._index]
            if not self._read_more():
                return ""

    def skip(self) -> None:
        """Go past the character that `peek` returned."""
        self._index += 1

    def read_value(self) -> tuple[int, Any]:
        """Return the next value and its first line."""
        is_number = self.peek() not in '{["'
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._index)
            except (ValueError, RecursionError) as error:
                if _is_final(error, len(self._buffer)) or not self._read_more():
                    raise self.make_error(describe_json_error(error)) from None
                continue
            if is_number and end == len(self._buffer) and self._read_more():
                continue  # more digits may follow
            line = self._line
            self._line += self._buffer.count("\n", self._index, end)
            # The buffer is not cut here: it may be long, and contain very many values.
            self._index = end
            return line, value

    def _read_more(self) -> bool:
        rest = self._buffer[self._index :]
        if len(rest) > MAX_RECORD_CHARS:
            raise self.make_error(f"a record is longer than {MAX_RECORD_CHARS:,} characters, the limit")
        # The buffer doubles, so that decoding a long value again and again costs at most twice its length.
        chunk = self._file.read(max(_CHUNK_SIZE, len(rest)))
        self._buffer, self._index = rest + chunk, 0
        return bool(chunk)

    def make_error(self, problem: str) -> BadRecord:
        """Return the error for invalid JSON in the current line."""
        return self._file.make_error(f"is not JSON: {problem}", self._line)


def _skip_whitespace(text: str, index: int) -> int:
    match = _JSON_WHITESPACE.match(text, index)
    assert match is not None  # the pattern also matches no text
    return match.end()


def is_cut_off(error: Exception, text: str) -> bool:
    """Return whether a text is invalid JSON only because it breaks off."""
    return not _is_final(error, len(text.rstrip()), 1)


def _is_final(error: Exception, length: int, token: int = _MAX_TOKEN_CHARS) -> bool:
    """Return whether a text of this length stays invalid when more text follows. Its last `token` characters may be a cut."""
    if not isinstance(error, json.JSONDecodeError):
        return True
    return not error.msg.startswith("Unterminated") and error.pos < length - token
