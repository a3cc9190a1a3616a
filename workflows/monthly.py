"""Maps every region of a folder for one period, and only what is new: made for cron, safe to start at any time.

::

    spex monthly last-month --output /data/maps

Each ``*.yaml`` of the regions folder is a run file without ``start``, ``end`` and ``output``: the period gives the
dates, and all maps join the one catalog in ``OUTPUT``. Before a region is mapped its run is planned; if the plan has
the run id of the map that is already there (same scenes, settings, model and software) and is published the same way,
nothing is computed. A map with missing blocks does not count as there: it is tried again.

A crontab line, on the fifth of each month at 03:10::

    10 3 5 * *  cd /srv/spex && .venv/bin/spex monthly last-month --output /data/maps >> monthly.log 2>&1

Exit codes: 0 all there, or no scene of the period matches; 3 a map has gaps; 4 nothing could be mapped (scenes match
and none is usable, or every pixel is cloud); 2 bad input; 1 a run failed (the worst of all regions); 75 another process
is at work on the same output folder and nothing was started (``EX_TEMPFAIL``).
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.errors import BadInputError, ConfigError, NoScenesError, NothingMappedError
from pipeline.machine import standard_streams
from pipeline.machine.atomic_files import write_json
from pipeline.machine.wheel_data import leave_out_foreign_data
from pipeline.records.region_formats import digest
from pipeline.run import plan, run
from pipeline.settings.yaml_file import read_mapping
from spex_core.errors import CheckpointError, LegendError, SpexError
from workflows.lock import AlreadyRunningError, exclusive
from workflows.period import ACCEPTED, Period, PeriodError, parse_period

if TYPE_CHECKING:
    from pipeline.settings.run_file import RunConfig

logger = logging.getLogger(__name__)

REGIONS = Path(__file__).parent / "regions"
STATE_FOLDER = ".monthly"
EXIT_BUSY = 75
SEVERITY = (0, 3, 4, 2, 1)
"""Exit codes of a region, harmless first."""

Status = Literal["up-to-date", "mapped", "incomplete", "no-scenes", "nothing-mapped", "would-map", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one region."""

    region: str
    status: Status
    exit_code: int
    message: str
    run_id: str | None = None
    output: str | None = None
    seconds: float = 0.0


def region_config(path: Path, period: Period, output: Path, address: str | None = None) -> RunConfig:
    """A region's template, filled in for a period.

    Args:
        path: YAML run file without ``start``, ``end`` and ``output``; paths in it are relative to it.
        period: Gives the dates.
        output: The folder of all maps.
        address: Ray cluster to join; ``None`` keeps what the template says.

    Raises:
        ConfigError: Unreadable, not YAML, a field is wrong, or it sets what the period decides.
    """
    data = read_mapping(path, "region file")
    decided = sorted({"start", "end", "output"} & data.keys())
    if decided:
        raise ConfigError(f"region file {path} sets {', '.join(decided)}: the period decides that; remove it")
    # The name becomes a folder: from_dict checks it before the folder is made from it below.
    filled = {**data, "start": period.start, "end": period.end}
    from pipeline.settings.run_file import RunConfig  # heavy: --help and a missing folder do without it

    config = RunConfig.from_dict(filled, path.parent.resolve(), str(path))
    updates: dict[str, Any] = {"output": output.resolve()}
    if address is not None:
        updates["compute"] = config.compute.model_copy(update={"address": address})
    return config.model_copy(update=updates)


def map_period(
    regions: Path, period: Period, output: Path, *, address: str | None = None, dry_run: bool = False
) -> Iterator[Outcome]:
    """Maps each region in turn, in the order of the file names; one that fails does not stop the others.

    The caller holds the lock of ``output`` (see :func:`main`). A dry run plans and writes nothing.

    Raises:
        BadInputError: The folder holds no region file.
    """
    paths = sorted(regions.glob("*.yaml"))
    if not paths:
        raise BadInputError(f"no region file (*.yaml) in {regions}")
    names: dict[str, Path] = {}
    for path in paths:
        started = time.monotonic()
        try:
            config = region_config(path, period, output, address)
            if config.name in names:
                raise ConfigError(f"{path} and {names[config.name]} have the same name {config.name!r}: rename one")
            names[config.name] = path
            outcome = _map_region(config, output / STATE_FOLDER / config.name / f"{period.label}.json", dry_run)
        except NothingMappedError as error:
            outcome = Outcome(path.stem, "nothing-mapped", 4, str(error))
        except (BadInputError, LegendError, CheckpointError) as error:
            outcome = Outcome(path.stem, "failed", 2, str(error))
        except SpexError as error:
            outcome = Outcome(path.stem, "failed", 1, str(error))
        except Exception as error:  # a defect in one region's run must not cost the others their month
            logger.exception("%s: unexpected error", path)
            outcome = Outcome(path.stem, "failed", 1, f"unexpected {type(error).__name__}: {error}")
        yield Outcome(**{**asdict(outcome), "seconds": round(time.monotonic() - started, 1)})


def worst(codes: list[int]) -> int:
    """The gravest of the regions' exit codes; a code that is not known counts as a failed run."""
    return max((code if code in SEVERITY else 1 for code in codes), key=SEVERITY.index, default=0)


def _map_region(config: RunConfig, record: Path, dry_run: bool) -> Outcome:
    from pipeline.runs.finished import is_listed  # heavy, as in region_config
    from workflows.earlier_folders import adopt, is_cleaned_island

    try:
        planned = plan(config)
    except NothingMappedError:
        raise  # scenes match, and none is usable: that is no quiet month
    except NoScenesError as error:
        return Outcome(config.name, "no-scenes", 0, str(error))
    where = str(config.output)
    island = config.output / config.name / record.stem
    identity = {"run_id": planned.run_id, "published": _published_as(config)}
    if _recorded(record) == identity and is_listed(config, planned):
        return Outcome(config.name, "up-to-date", 0, "nothing new", planned.run_id, where)
    if _recorded(record) == identity and is_cleaned_island(island, planned.run_id):
        message = "nothing new; mapped by an earlier version into a folder of its own"
        return Outcome(config.name, "up-to-date", 0, message, planned.run_id, str(island))
    scenes = f"{len(planned.scenes)} scene{'' if len(planned.scenes) == 1 else 's'}"
    if dry_run:
        return Outcome(config.name, "would-map", 0, f"{scenes}, not mapped yet", planned.run_id, where)
    adopted = adopt(island, config.output, planned.run_id)
    result = run(config)
    if adopted:
        logger.info("the map of %s has joined %s; it is not needed any more", island, config.output)
    if result.exit_code == 0:
        _write_record(record, {**identity, "run_id": result.run_id})
        return Outcome(config.name, "mapped", 0, scenes, result.run_id, where)
    if result.exit_code == 3:
        message = f"{scenes}; blocks or scenes are missing, tried again next time"
        return Outcome(config.name, "incomplete", 3, message, result.run_id, where)
    return Outcome(config.name, "failed", result.exit_code, "the run failed", result.run_id, where)


def _published_as(config: RunConfig) -> str:
    """sha256 of what changes the published files but no pixel: sub-regions, names, period, overviews, colours."""
    from pipeline.runs.finished import publishing
    from spex_core.legend import Legend

    settings = [
        config.regions.model_dump(mode="json", exclude_none=True),
        publishing(config.publish),
        [config.name, config.start.isoformat(), config.end.isoformat()],
        Legend.from_yaml(config.legend).to_dict(),
    ]
    return hashlib.sha256(f"{json.dumps(settings, sort_keys=True)} {digest(config.region)}".encode()).hexdigest()


def _recorded(record: Path) -> dict[str, str] | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {key: str(content[key]) for key in ("run_id", "published")}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no record, or not one: the run itself still knows its finished blocks


def _write_record(record: Path, identity: dict[str, str]) -> None:
    finished = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    write_json(record, {**identity, "finished": finished})


def main(
    period: Annotated[str, typer.Argument(help=f"{ACCEPTED}.")],
    regions: Annotated[Path, typer.Option(help="Folder of region files (*.yaml).")] = REGIONS,
    output: Annotated[Path, typer.Option(help="Folder of all maps, one catalog.")] = Path("out"),
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join; default: what the region file says.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Search and plan only; nothing is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Standard output is one JSON object alone.")] = False,
) -> None:
    """Maps every region for a period, if there is something new."""
    try:
        when = parse_period(period, dt.datetime.now(dt.UTC).date())
    except PeriodError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    outcomes: list[Outcome] = []
    try:
        if dry_run:
            outcomes = _told(map_period(regions, when, output, address=address, dry_run=True), when, as_json)
        else:
            with exclusive(output / STATE_FOLDER / "lock"):
                outcomes = _told(map_period(regions, when, output, address=address), when, as_json)
        code = worst([outcome.exit_code for outcome in outcomes])
    except AlreadyRunningError as error:
        typer.echo(str(error), err=True)
        code = EXIT_BUSY
    except (BadInputError, OSError) as error:
        typer.echo(str(error), err=True)
        code = 2
    if as_json:
        summary = {
            "period": when.label,
            "start": when.start.isoformat(),
            "end": when.end.isoformat(),
            "regions": [asdict(outcome) for outcome in outcomes],
            "exit_code": code,
        }
        typer.echo(json.dumps(summary))
    raise typer.Exit(code)


def _told(outcomes: Iterator[Outcome], period: Period, aside: bool) -> list[Outcome]:
    """Tells each region when it is done, on standard output, or ``aside`` on standard error."""
    told = []
    for outcome in outcomes:
        place = f" -> {outcome.output}" if outcome.status in ("mapped", "incomplete", "up-to-date") else ""
        typer.echo(f"{outcome.region} {period.label}: {outcome.status}, {outcome.message}{place}", err=aside)
        told.append(outcome)
    return told


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
@functools.wraps(main)
def _logged(**options: Any) -> None:
    # Standard error, which cron mails or logs; only this project's loggers, because libraries say a lot at this level.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    for package in ("pipeline", "workflows"):
        logging.getLogger(package).setLevel(logging.INFO)
    main(**options)


if __name__ == "__main__":
    standard_streams.secure()
    leave_out_foreign_data()
    app()
