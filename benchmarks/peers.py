"""Others that map the same scenes with the same model: ``python -m benchmarks.peers NAME RUN_FILE WORKERS``.

Each reads the scenes of a run file, masks by scene classification, averages the dates (of two dates the median is the
mean), classifies overlapping tiles of the run's size, and writes class and confidence as COGs. None resumes, repeats a
failed read, writes a catalog, statistics or explanations, or holds its memory within bounds. Torch gets as many threads
as the run has actors, in the arrangement that suits the peer best.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.process_tree import Cost, cost_of
from pipeline.engine.cluster import worker_environment
from pipeline.imagery.stack import stackstac_item
from pipeline.planning.prepare import Prepared, prepare
from pipeline.predict.classifier import Classifier, fill_invalid, load_classifier
from pipeline.records.grid import geobox, grid_window, transform
from pipeline.records.scene import SCL
from pipeline.settings.model import tiles_per_forward
from pipeline.settings.run_file import RunConfig
from spex_core.bands import SENTINEL2_BANDS

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Peer:
    """One way to do it."""

    title: str
    needs: str
    """Package that must be installed beside the project's own."""
    run: Callable[[Prepared, int], tuple[ByteArray, ByteArray]]
    """Prepared run, workers → class codes and percent of confidence, uint8 ``[H, W]``."""
    threaded: bool = True
    """Torch has as many threads as there are workers; False: each worker is a thread with one of its own."""


def cost_of_peer(name: str, run_file: Path, workers: int) -> Cost:
    """Runs one in a process of its own, with the settings of allocator and GDAL that our workers have."""
    threads = workers if PEERS[name].threaded else 1
    command = [sys.executable, "-m", "benchmarks.peers", name, str(run_file), str(workers)]
    return cost_of(command, worker_environment(threads))


def available(name: str) -> bool:
    """Whether a peer can run here."""
    return importlib.util.find_spec(PEERS[name].needs) is not None


class _Network:
    """The run's model on batches of tiles."""

    def __init__(self, prepared: Prepared, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.config = prepared.config
        self.codes = np.array(prepared.legend.codes, np.uint8)
        self.classifier: Classifier = load_classifier(
            self.config.model, prepared.legend, tile_px=self.config.tiling.tile_px, tiles=10**6
        )

    def scores(self, tiles: list[FloatArray]) -> FloatArray:
        """float32 ``[B, K, h, w]``; zeros where a tile has no pixel."""
        filled = [fill_invalid(tile) for tile in tiles]
        out = np.zeros((len(tiles), len(self.codes), *tiles[0].shape[1:]), np.float32)
        there = [i for i, tile in enumerate(filled) if tile is not None]
        if there:
            out[there] = self.classifier.scores(np.stack([tile for tile in filled if tile is not None]))
        return out

    def labels(self, scores: FloatArray, valid: npt.NDArray[np.bool_]) -> tuple[ByteArray, ByteArray]:
        """Codes and percent of ``[K, h, w]``."""
        percent = np.rint(scores.max(axis=0) * 100).astype(np.uint8)
        codes = self.codes[scores.argmax(axis=0)]
        return np.where(valid, codes, 0).astype(np.uint8), np.where(valid, percent, 255).astype(np.uint8)


def dask_overlap(prepared: Prepared, workers: int) -> tuple[ByteArray, ByteArray]:
    """``dask.array.map_overlap`` over a stackstac stack, half of the overlap trimmed; a thread per worker."""
    import dask
    import dask.array as da

    network = _Network(prepared, threads=1)
    tiling = prepared.config.tiling
    depth = tiling.overlap_px // 2
    image = _lazy_composite(prepared, tiling.tile_px - tiling.overlap_px)
    bands, height, width = image.shape
    step = tiling.tile_px - tiling.overlap_px
    extra = (-height % step, -width % step)
    whole = da.pad(image, ((0, 0), (0, extra[0]), (0, extra[1])), constant_values=np.nan)
    whole = whole.rechunk((bands, step, step))

    def classify(tile: FloatArray) -> ByteArray:
        if tile.shape[1:] != (tiling.tile_px, tiling.tile_px):  # dask tries functions on empty arrays
            return np.zeros((2, *tile.shape[1:]), np.uint8)
        return np.stack(network.labels(network.scores([tile])[0], np.isfinite(tile[0])))

    labels = da.map_overlap(
        classify,
        whole,
        depth={0: 0, 1: depth, 2: depth},
        boundary={0: "none", 1: np.nan, 2: np.nan},
        dtype=np.uint8,
        chunks=((2,), *whole.chunks[1:]),
    )
    with dask.config.set(scheduler="threads", num_workers=workers):
        found = labels.compute()[:, :height, :width]
    return found[0], found[1]


def monai_sliding(prepared: Prepared, workers: int) -> tuple[ByteArray, ByteArray]:
    """``monai.inferers.sliding_window_inference`` with gaussian weights over the whole image in memory."""
    import dask
    import torch
    from monai.inferers import sliding_window_inference

    tiling = prepared.config.tiling
    with dask.config.set(scheduler="threads", num_workers=workers):
        image = _lazy_composite(prepared, 2048).compute()
    network = _Network(prepared, threads=workers)
    valid = np.isfinite(image).all(axis=0)
    scores = sliding_window_inference(
        torch.from_numpy(np.nan_to_num(image, nan=0.1))[None],
        roi_size=(tiling.tile_px, tiling.tile_px),
        sw_batch_size=tiles_per_forward(prepared.config.model, "cpu"),
        predictor=lambda tiles: torch.from_numpy(network.scores(list(tiles.numpy()))),
        overlap=tiling.overlap_px / tiling.tile_px,
        mode="gaussian",
    )
    return network.labels(scores[0].numpy(), valid)


def rasterio_loop(prepared: Prepared, workers: int) -> tuple[ByteArray, ByteArray]:
    """A loop over windows: read each band, classify a batch of tiles, keep the middles."""
    network = _Network(prepared, threads=workers)
    tiling, zone = prepared.config.tiling, prepared.plan.zones[0]
    height, width = zone.grid.height, zone.grid.width
    depth, step = tiling.overlap_px // 2, tiling.tile_px - tiling.overlap_px
    found = np.zeros((2, height, width), np.uint8)
    corners = [(row, col) for row in range(0, height, step) for col in range(0, width, step)]
    size = tiles_per_forward(prepared.config.model, "cpu")
    reader = _WindowReader(prepared)
    for first in range(0, len(corners), size):
        batch = corners[first : first + size]
        tiles = [reader.read(row - depth, col - depth, tiling.tile_px) for row, col in batch]
        for (row, col), tile, scores in zip(batch, tiles, network.scores(tiles), strict=True):
            rows, cols = min(step, height - row), min(step, width - col)
            inner = (slice(depth, depth + rows), slice(depth, depth + cols))
            part = network.labels(scores[:, inner[0], inner[1]], np.isfinite(tile[0][inner]))
            found[:, row : row + rows, col : col + cols] = np.stack(part)
    return found[0], found[1]


PEERS: dict[str, Peer] = {
    "dask": Peer("dask map_overlap over stackstac", "dask", dask_overlap, threaded=False),
    "monai": Peer("MONAI sliding_window_inference", "monai", monai_sliding),
    "rasterio": Peer("a loop of rasterio windows", "rasterio", rasterio_loop),
}


def _lazy_composite(prepared: Prepared, chunk: int) -> Any:
    """Mean of the clear observations: lazy float32 ``[10, H, W]`` on the grid of the first zone."""
    import stackstac
    from rasterio.enums import Resampling

    grid, scenes, names = prepared.plan.zones[0].grid, prepared.plan.scenes, list(SENTINEL2_BANDS)
    bounds = geobox(grid, grid_window(grid)).boundingbox.bbox
    common: dict[str, Any] = {
        "epsg": grid.epsg,
        "resolution": grid.resolution_m,
        "bounds": bounds,
        "snap_bounds": False,
        "dtype": np.dtype("float32"),
        "fill_value": np.float32(np.nan),
        "rescale": False,
        "chunksize": (1, 1, chunk, chunk),
        "xy_coords": False,
    }
    items = [stackstac_item(scene, [*names, SCL]) for scene in scenes]
    bands = stackstac.stack(items, assets=names, resampling=Resampling.bilinear, **common)
    classes = stackstac.stack(items, assets=[SCL], resampling=Resampling.nearest, **common)
    asset = scenes[0].assets[names[0]]
    masked = bands.where(~classes.isel(band=0).isin([0, *prepared.config.composite.mask_scl]))
    return (masked.mean("time") * np.float32(asset.scale) + np.float32(asset.offset)).data


class _WindowReader:
    """Windows of all scenes by plain rasterio."""

    def __init__(self, prepared: Prepared) -> None:
        import rasterio

        self._scenes = prepared.plan.scenes
        self._mask = np.array([0, *prepared.config.composite.mask_scl])
        grid = prepared.plan.zones[0].grid
        self._transform = transform(grid)
        self._open = {
            (i, name): rasterio.open(scene.assets[name].href)
            for i, scene in enumerate(self._scenes)
            for name in (*SENTINEL2_BANDS, SCL)
        }

    def read(self, row: int, col: int, size: int) -> FloatArray:
        """Mean of the clear observations: float32 ``[10, size, size]``."""
        total = np.zeros((len(SENTINEL2_BANDS), size, size), np.float32)
        count = np.zeros((size, size), np.float32)
        for i, scene in enumerate(self._scenes):
            clear = ~np.isin(self._window(i, SCL, row, col, size), self._mask)
            count += clear
            for j, name in enumerate(SENTINEL2_BANDS):
                asset = scene.assets[name]
                values = self._window(i, name, row, col, size).astype(np.float32)
                total[j] += np.where(clear, values * np.float32(asset.scale) + np.float32(asset.offset), 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, total / count, np.float32(np.nan)).astype(np.float32)

    def _window(self, scene: int, name: str, row: int, col: int, size: int) -> Any:
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        source = self._open[scene, name]
        ratio = source.transform.a / self._transform.a
        left = (self._transform.c - source.transform.c) / source.transform.a
        top = (self._transform.f - source.transform.f) / source.transform.e
        window = Window(left + col / ratio, top + row / ratio, size / ratio, size / ratio)
        method = Resampling.nearest if name == SCL else Resampling.bilinear
        return source.read(1, window=window, out_shape=(size, size), boundless=True, fill_value=0, resampling=method)


def main(name: str, run_file: Path, workers: int) -> None:
    """Maps and writes."""
    from rasterio.io import MemoryFile
    from rio_cogeo import cog_profiles, cog_translate

    prepared = prepare(RunConfig.from_yaml(run_file))
    grid = prepared.plan.zones[0].grid
    folder = run_file.parent / "peers"
    folder.mkdir(exist_ok=True)
    layers = PEERS[name].run(prepared, workers)
    for layer, title, nodata in zip(layers, ("landcover", "confidence"), (0, 255), strict=True):
        profile = {
            "driver": "GTiff",
            "count": 1,
            "dtype": "uint8",
            "height": grid.height,
            "width": grid.width,
            "crs": f"EPSG:{grid.epsg}",
            "transform": transform(grid),
            "nodata": nodata,
        }
        with MemoryFile() as memory:
            with memory.open(**profile) as target:
                target.write(layer, 1)
            with memory.open() as source:
                cog_translate(source, folder / f"{name}-{title}.tif", cog_profiles.get("deflate"), quiet=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
