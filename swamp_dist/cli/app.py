"""The `swamp` application that the verbs register with, and how errors become exit codes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer._click.exceptions import UsageError as _UsageError  # typer names no public one
from typer.core import TyperGroup

import swamp_dist
from swamp_dist.cli.hints import with_hint
from swamp_dist.cli.printing import refuse, say
from swamp_dist.errors import ExitCode, RunDirHeld, UserError, system_error

CONTINUED = frozenset({"run", "pipeline", "smoke", "sweep", "shards"})
"""Verbs whose same command goes on where it was interrupted."""


class _Verbs(TyperGroup):
    """Turns what a user can mend into a message and an exit code; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        given = [*ctx._protected_args, *ctx.args]
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            error.message = with_hint(error.message, _typed(ctx), given)
            raise
        except UserError as error:
            refuse(str(error))
            raise typer.Exit(
                ExitCode.HELD if isinstance(error, RunDirHeld) else ExitCode.USER_MISTAKE
            ) from None
        except BrokenPipeError:  # who reads has seen enough: `| head`
            raise
        except OSError as error:
            refuse(system_error(error))
            raise typer.Exit(ExitCode.USER_MISTAKE) from None
        except KeyboardInterrupt:
            code = ExitCode.REQUEUE if ctx.invoked_subcommand in CONTINUED else ExitCode.INTERRUPTED
            word = "stopped with its progress saved; the same command continues"
            say(word if code == ExitCode.REQUEUE else "interrupted", error=True)
            raise typer.Exit(code) from None


def _typed(ctx: Any) -> str:
    """The verb of a command line that could not be understood; empty where it is no verb."""
    return str(ctx.invoked_subcommand or "")


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Distributed training for cross-modal retrieval with SwAMP.\n\n"
    "First steps: [bold]swamp init[/] lays down jobs and recipes in a folder; "
    "[bold]swamp smoke[/] runs a small pipeline end to end; "
    "[bold]swamp show jobs/FILE.yaml[/] explains every setting of a file.\n\n"
    "Exit codes: 0 done, 2 a mistake in what was asked, 3 the run folder is held by another run, "
    "75 progress saved and to be started again (Ctrl-C once, SIGTERM, SIGUSR2, a closed terminal), "
    "130 killed by a second Ctrl-C, or a verb ended by Ctrl-C that has nothing to save, 1 anything else.",
)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"swamp_dist {swamp_dist.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """What stands before the verb."""


shards_app = typer.Typer(
    no_args_is_help=True,
    help="Build and check shard sets.",
    epilog="Example:  swamp shards build shards/synthetic.yaml, then  swamp shards verify data/synthetic",
)
app.add_typer(shards_app, name="shards")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings to change, with dotted keys: train.optimizer.lr=3e-5",
        show_default=False,
    ),
]
