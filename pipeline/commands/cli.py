"""The command ``spex``: a thin layer over the public functions, with exit codes that scripts can rely on.

0 done; 1 the run failed; 2 bad usage or bad input; 3 done with some blocks or scenes missing; 4 nothing could be
mapped; 130 interrupted (Ctrl-C, SIGTERM, SIGHUP).
Results go to standard output, progress and messages to standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from pipeline.commands import (
    adapt_command,
    answer_commands,
    folder_commands,
    further_commands,
    run_commands,
    view_command,
    workshop_commands,
)
from pipeline.errors import BadInputError, NothingMappedError
from pipeline.machine import allocator, interruption, standard_streams, wheel_data
from pipeline.machine.addresses import without_secrets
from pipeline.machine.interruption import EXIT_INTERRUPTED
from spex_core.errors import CheckpointError, LegendError, SpexError, harmless

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_NOTHING = 1, 2, 4

app = typer.Typer(
    name="spex",
    help="Regional land-cover maps from Sentinel-2 with SPEX, a spectral vision-language model, on Ray.",
    epilog="Try it: spex demo --output demo. Exit codes: 0 done; 1 the run failed; 2 bad usage or bad input; 3 done, "
    "with some blocks or scenes missing; 4 nothing could be mapped (an earlier map is left alone); 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (run_commands.demo, "Simulate an archive, map it, measure the map"),
    (run_commands.init, "Write a run file to begin with"),
    (run_commands.plan, "Say what a run will read, cover and cost"),
    (run_commands.run, "Make a map, or finish an interrupted one"),
    (run_commands.submit, "Send a run to a Ray cluster and follow it"),
    (further_commands.monthly, "Map every region of a folder for a period"),
    (adapt_command.adapt, "Make a checkpoint for a legend of your own"),
    (folder_commands.status, "Say how far runs are and what failed"),
    (view_command.view, "Show maps in the browser"),
    (folder_commands.publish, "Send maps to a bucket, only what changed"),
    (folder_commands.clean, "Free what an output folder needs no more"),
    (answer_commands.explain, "Say why the map has its class at a point"),
    (answer_commands.ask, "Ask a finished map in free words"),
    (folder_commands.doctor, "Look whether this machine is fit for a run"),
    (workshop_commands.evaluate, "Measure a checkpoint against labels"),
    (workshop_commands.spie, "Build instruction data (SPIE)"),
    (workshop_commands.train, "Train a model, or go on training it"),
    (workshop_commands.convert_checkpoint, "Convert a published SPEX checkpoint"),
)
"""Commands in the order of ``--help``, each with a summary that fits into a line of it."""

for _command, _summary in _COMMANDS:
    _settings = further_commands.PASSED_ON if _command is further_commands.monthly else None
    app.command(short_help=_summary, context_settings=_settings)(_command)


def _told_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"spex {version('spex-landcover')}")
        raise typer.Exit


@app.callback()
def _spex(
    version: Annotated[
        bool, typer.Option("--version", callback=_told_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What holds for all commands."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code: one message on standard error, never a traceback.

    ``SPEX_DEBUG=1`` shows tracebacks.
    """
    standard_streams.secure()
    wheel_data.leave_out_foreign_data()
    # Schedulers and spot machines end a run with SIGTERM, closed terminals with SIGHUP: the same clean stop as Ctrl-C.
    interruption.install()
    allocator.keep_freed_memory()
    debug = os.environ.get("SPEX_DEBUG") == "1"
    code: Any = 0
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except typer.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt:
        interruption.end_at_once_from_now_on()
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            _say("interrupted; what is finished is kept: the same command goes on from there")
        code = EXIT_INTERRUPTED
    except NothingMappedError as error:
        if debug:
            raise
        _say(f"nothing could be mapped: {error}")
        code = EXIT_NOTHING
    except (BadInputError, LegendError, CheckpointError) as error:
        if debug:
            raise
        _say(f"error: {error}")
        code = EXIT_BAD_INPUT
    except SpexError as error:
        if debug:
            raise
        _say(f"error: {error}")
        code = EXIT_FAILED
    except Exception as error:
        code = _usage_or_defect(error, debug)
    sys.stdout.flush()
    failure = standard_streams.output_failure()
    if failure is not None:
        _say(f"error: standard output cannot be written: {failure.strerror or failure}")
        code = code or EXIT_FAILED
    raise SystemExit(code if isinstance(code, int) else 0)


def _usage_or_defect(error: Exception, debug: bool) -> int:
    # typer carries its own copy of click, so its exceptions are known by what they can do.
    show = getattr(error, "show", None)
    if callable(show) and hasattr(error, "exit_code"):
        show(file=sys.stderr)
        return int(error.exit_code)
    if debug:
        raise error
    _say(f"unexpected {type(error).__name__}: {error} (SPEX_DEBUG=1 shows where; please report it)", error)
    return EXIT_FAILED


def _say(message: str, defect: BaseException | None = None) -> None:
    message = without_secrets(message)
    print(harmless(message), file=sys.stderr)
    if (console := sys.modules.get("pipeline.commands.console")) is not None:  # else nothing has opened a log file
        console.log_last_words(message, defect)
