"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind."""

    run_id: str
    exit_code: int
    """0 done; 3 done with some blocks or scenes missing or doubtful."""
    outputs: dict[str, tuple[Path, ...]]
    """Kind (``catalog``, ``report``, ``landcover``, ``confidence``, ...) → files, one per UTM zone."""
    seconds: float
    tiles: int
    """Tiles of the plan."""
    blocks: int
    """Blocks of the plan."""
    computed_blocks: int
    """Blocks written by this run; the others were there already."""
    missing_blocks: int
    incomplete_blocks: int
    """Blocks mapped although a scene could not be read there or a neighbour's tiles are missing."""
    skipped_scenes: tuple[tuple[str, str], ...]
    """(item id, reason)."""
    peak_memory_mb: float
    """Highest sum of resident memory over all processes of the run, MiB."""
    doubtful_scenes: tuple[tuple[str, str], ...] = ()
    """(scene id, line) of scenes whose radiometry was corrected, or stays doubtful."""
    text_problems: tuple[str, ...] = ()
    """One line per sub-region that the model could not be asked about."""
    reused: bool = False
    """Everything was there already: nothing was computed."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "run_id": self.run_id,
            "exit_code": self.exit_code,
            "outputs": {kind: [str(path) for path in paths] for kind, paths in self.outputs.items()},
            "seconds": round(self.seconds, 1),
            "tiles": self.tiles,
            "blocks": self.blocks,
            "computed_blocks": self.computed_blocks,
            "missing_blocks": self.missing_blocks,
            "incomplete_blocks": self.incomplete_blocks,
            "skipped_scenes": [list(pair) for pair in self.skipped_scenes],
            "doubtful_scenes": [list(pair) for pair in self.doubtful_scenes],
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "text_problems": list(self.text_problems),
            "reused": self.reused,
        }
