"""Read the lines of a lossless export and check its digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from convokit.errors import BadRecord, InvalidInput
from convokit.transfer import format_jsonl
from convokit.transfer.foreign_formats import find_hint
from convokit.transfer.import_file import ImportFile, read_values

# The kind of a line, its values and its text.
Line = tuple[str, Any, str]


class ExportLines:
    """The lines of an export. The file must be rewindable."""

    def __init__(self, file: ImportFile) -> None:
        self._file = file
        self._next_line: Line | None = None

    def read_header(self) -> Mapping[str, Any]:
        """Return the header of the open file. Raises: BadRecord, TransferFailed."""
        try:
            header = json.loads(self._file.readline()).get("convokit")
            version = header.get("version")
        except (ValueError, AttributeError, RecursionError):
            problem = f"is not an export of convokit in the format jsonl{self._find_hint()}"
            raise self._file.make_error(problem, 1) from None
        if version != format_jsonl.VERSION:
            problem = f"has version {version!r} of the format, this convokit reads {format_jsonl.VERSION}"
            raise self._file.make_error(f"{problem}; update convokit-sql", 1)
        values: Mapping[str, Any] = header
        return values

    def _find_hint(self) -> str:
        """Return the end of the error for a file of another format."""
        self._file.rewind()
        try:
            return find_hint(next(read_values(self._file), (1, None))[1])
        except BadRecord:
            return ""

    def find_damage(self) -> BadRecord | None:
        """Return the error of a file that is truncated or was changed. The next line is then the first below the header."""
        self._file.rewind()
        try:
            self._check_digest()
        except BadRecord as error:
            return error
        finally:
            self._file.rewind()
            self._file.readline()  # the header
        return None

    def _check_digest(self) -> None:
        digest, last = self._file.hash_lines()
        try:
            footer = json.loads(last).get("footer")
        except (ValueError, AttributeError, RecursionError):
            footer = None
        if not isinstance(footer, Mapping) or not last.endswith("\n"):
            raise self._file.make_error("the file is truncated: its last line is not a footer")
        if footer.get("sha256") != digest:
            raise self._file.make_error("the file was changed after its export: its SHA-256 differs from the footer")

    def read(self) -> Line | None:
        """Return the next line; None at the footer or the end of the file. Raises: BadRecord, TransferFailed."""
        line, self._next_line = self._next_line, None
        if line is not None:
            return line
        text = self._file.readline()
        if not text:
            return None
        try:
            ((kind, values),) = json.loads(text).items()
        except (ValueError, AttributeError, RecursionError):
            raise self._file.make_error("is not a line of an export") from None
        return None if kind == "footer" else (kind, values, text)

    def put_back(self, line: Line) -> None:
        """Return this line once more from the next `read`."""
        self._next_line = line


def check_end(conversation_id: object, values: Any, digest: str, line_count: int) -> None:
    """Check the `end` line of a conversation. Raises: InvalidInput."""
    if not isinstance(values, Mapping) or (values.get("sha256"), values.get("lines")) != (digest, line_count):
        problem = f"{conversation_id} was changed after its export: its SHA-256 or number of lines differs"
        raise InvalidInput("conversation", problem)
