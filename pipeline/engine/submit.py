"""``spex submit``: the same run through the Ray Jobs API of a cluster, its log followed, its exit code returned.

The job's driver is ``python -m pipeline run FILE --address auto`` on the cluster. Paths go over as absolute ones:
region, legend, checkpoint folder and output must lie on storage that every node sees under the same path.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
import time
import uuid
from pathlib import Path
from typing import Any, TextIO

from pipeline.errors import ClusterError
from pipeline.settings.cloud_model import check_cloud_mask
from pipeline.settings.model import check_device, check_model
from pipeline.settings.published import check_published
from pipeline.settings.run_file import RunConfig

LOST_CONTACT_S = 60.0
"""How long the cluster may be out of reach before the job is let go (it runs on by itself)."""
POLL_S = 1.0


def entrypoint(config: RunConfig, file: Path, *, actors: int | None, checkpoint: bool = False, as_json: bool) -> str:
    """The shell command of the job's driver; every part is quoted.

    Args:
        config: The run, for its output folder.
        file: The run file.
        actors: As on the command line.
        checkpoint: Whether the model is one of the command line.
        as_json: As on the command line.
    """
    parts = ["python", "-m", "pipeline", "run", str(file.resolve()), "--address", "auto"]
    parts += ["--output", str(config.output.resolve())]
    if actors is not None:
        parts += ["--actors", str(actors)]
    if checkpoint:
        parts += ["--checkpoint", config.model.checkpoint]
    if as_json:
        parts.append("--json")
    return shlex.join(parts)


def submit_run(
    config: RunConfig,
    file: Path,
    address: str,
    *,
    actors: int | None = None,
    checkpoint: bool = False,
    as_json: bool = False,
) -> int:
    """Submits a run and waits for it.

    The log of the job goes to standard output; with ``as_json`` to standard error, and what the run ends with alone to
    standard output. Ctrl-C asks whether the job should go on; without a terminal it does.

    Args:
        config: The run, already validated here so that mistakes do not cost a trip to the cluster.
        file: Its run file.
        address: Ray dashboard, e.g. ``http://127.0.0.1:8265``.
        actors: Model actors.
        checkpoint: Whether the model is one of the command line, which the job is told.
        as_json: One JSON object is what standard output gets.

    Returns:
        Exit code of the run; 1 where the job did not end by itself.

    Raises:
        CheckpointError: The run's model cannot take what it would be given.
        ConfigError: It asks for a GPU by number.
        ClusterError: No Jobs API answers there, it refuses the job, or contact is lost for long.
    """
    check_device(config.model, config.compute.model_copy(update={"address": address}))
    _check_model(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    for name in ("job.sdk", "dashboard_sdk"):  # Ray's own notices: of web sockets that close, of files it looks for
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        client = JobSubmissionClient(address)
        job_id = client.submit_job(
            entrypoint=entrypoint(config, file, actors=actors, checkpoint=checkpoint, as_json=as_json),
            submission_id=f"spex-{config.name}-{uuid.uuid4().hex[:8]}",
            metadata={"spex_run": config.name},
        )
    except Exception as error:  # ConnectionError, RuntimeError, ValueError...: all mean that there is no job
        raise ClusterError(
            f"the run cannot be submitted to {address}: {error}; it must be the address of the cluster's dashboard"
        ) from error
    print(f"submitted job {job_id} to {address}", file=sys.stderr)
    try:
        _follow(client, job_id, sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        return _after_interrupt(client, job_id, address)
    if as_json and (document := last_document(client.get_job_logs(job_id))) is not None:
        print(document)
    return _exit_code(client, job_id)


def last_document(log: str) -> str | None:
    """The last line of a job's log that is a JSON object; the log holds what the run told people, too."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                json.loads(line)
            except ValueError:
                continue
            return line
    return None


def _check_model(config: RunConfig) -> None:
    if not _only_there(config.model.checkpoint):
        check_model(config.model, config.source.bands)
        check_published(config)
    if not _only_there(config.composite.cloud_checkpoint):
        check_cloud_mask(config.composite, config.source.bands)


def _only_there(checkpoint: str) -> bool:
    """A folder that only the cluster sees: the run there looks at it first."""
    return "/" in checkpoint and not Path(checkpoint).exists()


def _follow(client: Any, job_id: str, stream: TextIO) -> None:
    """Copies the job's log to a stream until the job has ended; survives lost connections."""
    shown = 0
    out_of_reach = 0.0
    while True:
        try:
            shown = _tail(client, job_id, shown, stream)
            if client.get_job_status(job_id).is_terminal():
                # The end of the log may come after the end of the tail: what was not shown yet is.
                _show(client.get_job_logs(job_id)[shown:], stream)
                return
            out_of_reach = 0.0
        except (ConnectionError, OSError, RuntimeError) as error:
            out_of_reach = out_of_reach or time.monotonic()
            if time.monotonic() - out_of_reach > LOST_CONTACT_S:
                raise ClusterError(
                    f"the cluster does not answer any more ({error}); job {job_id} may run on"
                ) from error
        time.sleep(POLL_S)


def _tail(client: Any, job_id: str, shown: int, stream: TextIO) -> int:
    """Follows the log from its beginning, skips what was shown, returns how many characters are shown now."""

    async def follow() -> int:
        position = 0
        async for chunk in client.tail_job_logs(job_id):
            fresh = chunk[max(0, shown - position) :]
            position += len(chunk)
            _show(fresh, stream)
        return max(shown, position)

    return asyncio.run(follow())


def _show(text: str, stream: TextIO) -> None:
    if text:
        print(text, end="", flush=True, file=stream)


def _exit_code(client: Any, job_id: str) -> int:
    info = client.get_job_info(job_id)
    code = info.driver_exit_code
    if code is not None and 0 <= code < 256:
        return int(code)
    if str(info.status) == "SUCCEEDED":
        return 0
    print(f"job {job_id} ended as {info.status}: {info.message}", file=sys.stderr)
    return 1


def _after_interrupt(client: Any, job_id: str, address: str) -> int:
    stop = False
    if sys.stdin.isatty():
        print(f"\nstop job {job_id} as well? [y/N] ", end="", file=sys.stderr, flush=True)
        try:
            stop = sys.stdin.readline().strip().lower() in ("y", "yes")
        except KeyboardInterrupt:
            stop = False
    if stop:
        client.stop_job(job_id)
        print(f"job {job_id} is being stopped; finished blocks are kept", file=sys.stderr)
    else:
        follow = f"ray job logs --follow --address {shlex.quote(address)} {job_id}"
        print(f"job {job_id} goes on; follow it with: {follow}", file=sys.stderr)
    return 1
