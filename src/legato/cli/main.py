"""The ``legato`` command: each sub-command is a module, imported when it is used.

So ``legato --help`` is quick, and a command whose optional packages are missing
does not keep the others from working.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from legato import __version__
from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS: Final = {
    # name: (module with a ``command``, a function or a Typer; one line for the overview)
    "serve": ("legato.cli.serve", "Serve models over gRPC and HTTP."),
    "inspect": ("legato.cli.inspect", "Show a model's inputs, outputs and state."),
    "demo": ("legato.cli.demo", "Follow many streams of real speech at once."),
    "sequences": (
        "legato.cli.sequences",
        "See, branch, move, record and replay sequences.",
    ),
    "ovms": ("legato.cli.ovms", "Serve by the command line of OpenVINO Model Server."),
    "torchserve": ("legato.cli.torchserve", "Serve by the command line of TorchServe."),
    "triton": ("legato.cli.triton", "Serve by the command line of Triton Inference Server."),
    "bench": ("legato.cli.bench", "Measure a KServe v2 server under load."),
}


def build(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line; only the command that ``arguments`` name is imported."""
    cli = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="A server for stateful models.",
    )
    cli.callback()(_root)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        if name == wanted:
            imported = importlib.import_module(module)
            command = imported.command
            if isinstance(command, typer.Typer):
                cli.add_typer(command, name=name, short_help=summary)
            else:
                # A command that has a syntax of its own says how it is called.
                context = getattr(imported, "CONTEXT", None)
                cli.command(name, short_help=summary, context_settings=context)(command)
        else:
            cli.command(name, short_help=summary)(_unused(name))
    return cli


def _unused(name: str) -> Callable[[], None]:
    """Return a stand-in for a command that is listed but not run."""

    def command() -> None:
        raise RuntimeError(f"'{name}' was not loaded")

    return command


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"legato {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    del version  # its callback has done the work


def main() -> None:
    """Run the command line; a start-up error is one clear message and exit code 1."""
    try:
        build(sys.argv[1:])(prog_name="legato")
    except ConfigError as error:
        sys.stderr.write(f"legato: {error}\n")
        sys.exit(1)
