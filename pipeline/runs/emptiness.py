"""Empty is not success: a run whose blocks are all finished and hold no pixel with a class says so, and why.

Nothing is published then, so that a good map of an earlier run in the same folder stays; see docs/decisions/0036.
"""

from __future__ import annotations

from pipeline.errors import NothingMappedError
from pipeline.mapstore.journal import JournalState
from pipeline.planning.prepare import Prepared

EMPTY_STATUS = "empty"
"""Of such a run in its journal."""
_REASONS = 3
"""Problems that the message repeats."""


def is_empty(state: JournalState) -> bool:
    """Whether blocks are finished and not one of them has a pixel with a class."""
    return bool(state.finished) and not any(record.valid_share > 0.0 for record in state.finished.values())


def unfinished(prepared: Prepared, state: JournalState) -> bool:
    """Whether a run of the plan still has something to compute, or to try again."""
    blocks = sum(len(zone.blocks) for zone in prepared.plan.zones)
    return len(state.finished) < blocks or any(record.incomplete for record in state.finished.values())


def refuse_empty(prepared: Prepared, state: JournalState) -> None:
    """Nothing, if a pixel is mapped.

    Args:
        prepared: What was decided for the run.
        state: Of its journal.

    Raises:
        NothingMappedError: The message says why, what to change, and that nothing was published.
    """
    if not is_empty(state):
        return
    scenes, blocks = len(prepared.plan.scenes), len(state.finished)
    unread = sum(record.incomplete for record in state.finished.values())
    problems = dict.fromkeys(problem for _, record in sorted(state.finished.items()) for problem in record.problems)
    problems |= dict.fromkeys(failure.error for _, failure in sorted(state.failed.items()))
    told = f"0 % of the region was observed, in {blocks} block{'s' if blocks != 1 else ''} and {_scenes(scenes)}"
    if unread or state.failed:
        shown = "; ".join(list(problems)[:_REASONS])
        more = f" and {len(problems) - _REASONS} more" if len(problems) > _REASONS else ""
        why = f"files cannot be read: {shown}{more}" if shown else "files cannot be read"
        mend = "the same command tries them again"
    else:
        why = "every pixel is cloud, shadow or without data in all of them"
        mend = "widen the dates, or raise source.max_cloud_cover"
    raise NothingMappedError(
        f"{told}: {why}; {mend}. Nothing was published: what {prepared.config.output} held is as it was"
    )


def _scenes(count: int) -> str:
    return f"{count} scene{'s' if count != 1 else ''}"
