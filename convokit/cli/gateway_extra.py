"""Import the modules that `convokit serve` and `convokit view` alone need.

The other commands must not load them: they take as long to import as the rest of the command line.
"""

from __future__ import annotations

from types import ModuleType

from convokit.errors import ConvokitError

_EXTRA = ("jinja2", "markdown_it", "markupsafe", "nh3", "starlette", "uvicorn")


def import_gateway() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Return the modules `config_file`, `server_process` and `demo.model`. Raises: ConvokitError without the extra."""
    try:
        from convokit.cli.demo import model  # noqa: PLC0415
        from convokit.server import config_file, server_process  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _explain(error, "serve") from None
    return config_file, server_process, model


def import_viewer() -> tuple[ModuleType, ModuleType]:
    """Return the modules `sign_in` and `viewer_process`. Raises: ConvokitError without the extra."""
    try:
        from convokit.viewer import sign_in, viewer_process  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _explain(error, "view") from None
    return sign_in, viewer_process


def _explain(error: ModuleNotFoundError, command: str) -> Exception:
    """Return an error that names the extra; the given error if something else is missing."""
    if (error.name or "").partition(".")[0] not in _EXTRA:
        return error
    return ConvokitError(f"`{command}` needs an extra: run `pip install 'convokit-sql[cli,server]'`")
