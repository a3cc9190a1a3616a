"""Commands that other packages bring: entry points of the group ``spex.commands``, each a typer application.

The regional workflows build on the pipeline and not the other way, so the command line knows them by name only.
"""

from __future__ import annotations

from importlib.metadata import entry_points

import typer

from pipeline.errors import ConfigError

GROUP = "spex.commands"
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose arguments are read by what it leads to, ``--help`` among them."""


def monthly(context: typer.Context) -> None:
    """Maps every region of a folder for one period, if there is something new."""
    _run("monthly", context.args)


def _run(name: str, arguments: list[str]) -> None:
    """Runs another package's command.

    Raises:
        ConfigError: No installed package brings it.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise ConfigError(f"no installed package brings 'spex {name}': install spex-landcover again (pip install .)")
    command = typer.main.get_command(next(iter(found)).load())
    code = command.main(args=arguments, prog_name=f"spex {name}", standalone_mode=False)
    if code:
        raise typer.Exit(code)
