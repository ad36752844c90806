"""Import the modules that `convokit serve` alone needs."""

from __future__ import annotations

from types import ModuleType

from convokit.errors import ConvokitError

_EXTRA = ("starlette", "uvicorn")


def import_gateway() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Return the modules `config_file`, `server_process` and `demo.model`. Raises: ConvokitError without the extra.

    The other commands must not load them: they take as long to import as the rest of the command line.
    """
    try:
        from convokit.cli.demo import model  # noqa: PLC0415
        from convokit.server import config_file, server_process  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        problem = "`serve` needs an extra: run `pip install 'convokit-sql[cli,server]'`"
        raise ConvokitError(problem) from None
    return config_file, server_process, model
