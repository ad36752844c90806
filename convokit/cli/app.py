"""Define the command `convokit`: register its subcommands and report its errors.

To add a command, write one module in `commands/` and register its function here.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from convokit.cli.commands.append import append
from convokit.cli.commands.audit import audit
from convokit.cli.commands.chat import chat
from convokit.cli.commands.context import context
from convokit.cli.commands.db import db
from convokit.cli.commands.demo import demo
from convokit.cli.commands.diff import diff
from convokit.cli.commands.doctor import doctor
from convokit.cli.commands.erase import erase, purge, redact
from convokit.cli.commands.export import export
from convokit.cli.commands.import_ import import_
from convokit.cli.commands.keys import keys
from convokit.cli.commands.ls import ls
from convokit.cli.commands.recover import recover
from convokit.cli.commands.rename import archive, rename
from convokit.cli.commands.replay import replay
from convokit.cli.commands.search import search
from convokit.cli.commands.serve import serve
from convokit.cli.commands.show import show
from convokit.cli.commands.usage import usage
from convokit.cli.commands.verify import verify
from convokit.cli.commands.view import view
from convokit.cli.interrupts import exit_on_sigterm
from convokit.cli.output import leave_closed_pipe, print_error, replace_unencodable, report_error
from convokit.cli.shared_options import LocalModelCommand
from convokit.errors import ConvokitError

_OUTPUT_ERRORS = {errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EBADF, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What a write to stdout fails with. Files and databases of a command raise a ConvokitError instead."""


class ErrorReportingGroup(TyperGroup):
    """Report a ConvokitError in one line and exit with 1. Exit without a word if the reader of a pipe has left.

    Any other exception is a bug in convokit and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk would otherwise be found when Python ends
            return result
        except ConvokitError as error:
            if isinstance(error.__context__, BrokenPipeError):
                leave_closed_pipe()
            else:
                report_error(error)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            leave_closed_pipe()
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno not in _OUTPUT_ERRORS:
                raise
            leave_closed_pipe()
            print_error(f"the output cannot be written ({error.strerror})")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=ErrorReportingGroup,
    name="convokit",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # typer's tracebacks print local variables: message texts and API keys
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command(cls=LocalModelCommand)(chat)
app.command(cls=LocalModelCommand)(serve)
app.command()(ls)
app.command()(show)
app.command()(view)
app.command()(append)
app.command()(rename)
app.command()(archive)
app.command(cls=LocalModelCommand)(context)
app.command()(replay)
app.command()(diff)
app.command()(verify)
app.command()(redact)
app.command()(erase)
app.command()(purge)
app.command()(export)
app.command(name="import")(import_)
app.command()(usage)
app.command()(search)
app.command()(recover)
app.add_typer(audit, name="audit")
app.add_typer(db, name="db")
app.add_typer(keys, name="keys")
app.command()(doctor)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"convokit-sql {metadata.version('convokit-sql')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Store conversations in SQL, chat with a model, and inspect what is stored and sent."""


def run() -> None:
    """Run the command line of this process and exit."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # Python's value for a descriptor that the shell has closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open until the end
    replace_unencodable(sys.stdout, sys.stderr)
    exit_on_sigterm()
    app(prog_name="convokit")
