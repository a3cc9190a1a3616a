"""What a frozen model sees of a run's own composites at labelled pixels, read window by window as a map reads them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.adaptation.samples import LabelledPixel, domain_windows, windows_of
from pipeline.imagery.composite import Composite, read_composite
from pipeline.machine.progress import Progress
from pipeline.planning.lattice import lattice_origin
from pipeline.planning.prepare import Prepared
from pipeline.predict.classifier import fill_invalid
from pipeline.records.plan import Window
from pipeline.sources.catalog import asset_door
from spex_core.adapting import sampled_sources
from spex_core.bands import SENTINEL2_BANDS

READ_AHEAD = 4
"""Windows that are read while the model looks at those before."""
STEP_PX = 16
"""Distance of the pixels of a window that stand for the region."""


@dataclass
class Seen:
    """N pixels as the model sees them."""

    sources: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """Of each source of a head, ``[N, channels]``."""
    pixels: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, len(SENTINEL2_BANDS)), np.float32))
    """Reflectance, ``[N, 10]``."""
    positions: list[int] = field(default_factory=list)
    """Of those that were asked for, the ones that have a clear observation."""
    problems: set[str] = field(default_factory=set)
    """Scenes that could not be read, and doubts about their values."""


@dataclass(frozen=True)
class Chip:
    """A window as the model was given it, and the labelled pixels in it."""

    tile: npt.NDArray[np.float32]
    """``[bands that are read, h, w]``, finite."""
    rows: list[int]
    columns: list[int]
    samples: list[int]
    """Of each pixel, its position among those that were asked for."""


class Onlooker:
    """Looks at pixels of a run's composites with a frozen model.

    Args:
        prepared: The run.
        model: A :class:`spex_core.SpexForLandCover` without a head.
        words: Mask prompts of the words that it is asked for.
    """

    def __init__(self, prepared: Prepared, model: Any, words: Any) -> None:
        self._prepared, self._model, self._words = prepared, model, words
        self._door = asset_door(prepared.config.source)
        by_id = {scene.id: scene for scene in prepared.plan.scenes}
        self._scenes = [tuple(by_id[name] for name in zone.scene_ids) for zone in prepared.plan.zones]

    def at(self, pixels: Sequence[LabelledPixel], progress: Progress, chips: list[Chip] | None = None) -> Seen:
        """Looks at labelled pixels; a list of chips gets the windows."""
        tiling = self._prepared.config.tiling
        origins = [lattice_origin(zone.grid, tiling) for zone in self._prepared.plan.zones]
        jobs = [
            (
                zone,
                window,
                positions,
                [pixels[i].row - window.row for i in positions],
                [pixels[i].col - window.col for i in positions],
            )
            for zone, window, positions in windows_of(pixels, tiling.tile_px, origins)
        ]
        return self._look(jobs, "reading chips", progress, chips)

    def around(self, most: int, progress: Progress) -> Seen:
        """Looks at pixels spread over the region, in at most so many windows of each zone."""
        jobs = []
        tile_px = self._prepared.config.tiling.tile_px
        for number, zone in enumerate(self._prepared.plan.zones):
            area = self._prepared.zone_areas[zone.grid.epsg]
            for window in domain_windows(zone.grid, area, tile_px, most):
                inside = [
                    (r, c)
                    for r in range(STEP_PX // 2, window.height, STEP_PX)
                    for c in range(STEP_PX // 2, window.width, STEP_PX)
                    if window.row + r < zone.grid.height and window.col + c < zone.grid.width
                ]
                jobs.append((number, window, [-1] * len(inside), [r for r, _ in inside], [c for _, c in inside]))
        return self._look(jobs, "looking over the region", progress)

    def _read(self, zone: int, window: Window) -> Composite:
        grid = self._prepared.plan.zones[zone].grid
        return read_composite(self._scenes[zone], grid, window, self._prepared.config.composite, self._door)

    def _look(
        self,
        jobs: list[tuple[int, Window, list[int], list[int], list[int]]],
        told: str,
        progress: Progress,
        chips: list[Chip] | None = None,
    ) -> Seen:
        import torch

        seen, parts, reflectances = Seen(), [], []
        progress.start(told, len(jobs), "windows")
        with ThreadPoolExecutor(2) as pool:
            ahead = [pool.submit(self._read, zone, window) for zone, window, *_ in jobs[:READ_AHEAD]]
            for number, (_, _, positions, rows, columns) in enumerate(jobs):
                composite = ahead.pop(0).result()
                if number + READ_AHEAD < len(jobs):
                    zone, window, *_ = jobs[number + READ_AHEAD]
                    ahead.append(pool.submit(self._read, zone, window))
                seen.problems.update(composite.problems)
                filled = fill_invalid(composite.reflectance)
                clear = [bool(composite.valid_count[r, c]) for r, c in zip(rows, columns, strict=True)]
                if filled is not None and any(clear):
                    rows = [r for r, good in zip(rows, clear, strict=True) if good]
                    columns = [c for c, good in zip(columns, clear, strict=True) if good]
                    read = ~np.isnan(filled[:, 0, 0])
                    bands = None
                    if not read.all():
                        bands = [name for name, there in zip(SENTINEL2_BANDS, read, strict=True) if there]
                    batch = torch.from_numpy(np.ascontiguousarray(filled[read][None]))
                    parts.append(sampled_sources(self._model, batch, rows, columns, self._words, bands))
                    reflectances.append(composite.reflectance[:, rows, columns].T)
                    there = [p for p, good in zip(positions, clear, strict=True) if good]
                    seen.positions += there
                    if chips is not None:
                        chips.append(Chip(batch[0].numpy(), rows, columns, there))
                progress.advance()
        if parts:
            seen.sources = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
            seen.pixels = np.concatenate(reflectances)
        return seen
