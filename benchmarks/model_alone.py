"""The forward passes of a plan without anything around them: ``python -m benchmarks.model_alone RUN_FILE TILES``.

One process of :mod:`benchmarks.pipeline`: loads the run's model as an actor does, warms up, says so, waits for a line,
and computes so many tiles from memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.predict.classifier import load_classifier
from pipeline.settings.model import device_for, device_kind, gpu_number, tiles_per_forward
from pipeline.settings.run_file import RunConfig
from spex_core.bands import SENTINEL2_BANDS
from spex_core.legend import Legend


def main(run_file: Path, tiles: int) -> None:
    """Measures and prints one JSON line."""
    import torch

    config = RunConfig.from_yaml(run_file)
    torch.set_num_threads(config.compute.threads_per_actor)
    torch.set_deterministic_debug_mode("warn")  # as in an actor
    device = device_for(config.model, config.compute.gpus_per_actor)
    if gpu_number(config.model) is not None:
        device = config.model.device  # no Ray lends it here
    kind = device_kind(config.model, config.compute.gpus_per_actor)
    side, batch = config.tiling.tile_px, tiles_per_forward(config.model, kind)
    # As many tiles as a long plan has, so that automatic choices are those of a long run.
    classifier = load_classifier(config.model, Legend.from_yaml(config.legend), device, tile_px=side, tiles=10**6)
    draw = np.random.default_rng(0)
    pixels = draw.uniform(0.02, 0.4, (batch, len(SENTINEL2_BANDS), side, side)).astype(np.float32)
    for _ in range(2):
        classifier.scores(pixels)
    print("ready", flush=True)
    sys.stdin.readline()
    batches = max(1, tiles // batch)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        classifier.device_scores(pixels)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"tiles": batches * batch, "wall_s": wall, "cpu_s": cpu}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
