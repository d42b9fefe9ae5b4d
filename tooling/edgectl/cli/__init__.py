"""The command `edgectl`: one file a command, no logic; here errors become one sentence."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, NoReturn

import typer

from edgectl import __version__
from edgectl.cli import (
    bench,
    build,
    compare,
    compress,
    devices,
    emulator,
    evaluate,
    history,
    profile_space,
    push,
    roofline,
    run,
    search,
    train,
    verify,
)

_INTERRUPTED = 130

app = typer.Typer(
    name="edgectl",
    help="Prune a PyTorch model, compile it for a phone, run it there, and see which layer got faster.\n\n"
    "Example: edgectl build models/wdsr/x4_pruned.toml --out out/pruned",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (train, compress, build, push, run, bench, evaluate, roofline, compare, profile_space, verify, devices, history):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
app.add_typer(search.app, name="search")
app.add_typer(emulator.app, name="emulator")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgectl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass  # `main` has taken --debug out of the arguments by now, wherever it stood


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command and exits: 0, 1 when a tool or a device failed, 2 for a user's mistake, 130 when interrupted.

    `verify` exits with 3 and 4 for what it could not prove.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="edgectl")
        code: object = 0
    except SystemExit as done:
        code = done.code
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # the reader has left; nothing more can be said to it
        code = 1
    except Exception as error:
        code = _explain(error, debug)
    if code == _INTERRUPTED:
        print("interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 1 if code else 0)


def _explain(error: Exception, debug: bool) -> int:
    """Says in one sentence what went wrong, on stderr, and returns the exit code."""
    from edgectl.errors import ToolError, UserError

    if debug:
        traceback.print_exception(error)
    if isinstance(error, UserError | ToolError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    sentence = " ".join(str(error).split())[:300]
    print(
        f"error: unexpected {type(error).__name__}: {sentence} (run it again with --debug to see where)",
        file=sys.stderr,
    )
    return 1
