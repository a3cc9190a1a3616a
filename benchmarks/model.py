"""How fast is the model, against the published procedure and against the machine?

    python -m benchmarks.model [--quick] [--checkpoint NAME] [--official] [--device cuda]

(a) is the published procedure: one tile and one class at a time, float32, 256 generated tokens, nothing shared.
(b) is ``SpexForLandCover.predict``: one vision pass and one image prefix per tile for all classes. Both run here, on
the same device, on the same tiles and questions. (a) is also shown with answers that end by themselves, because a
trained model's do. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from spex_core import Legend, SpexConfig, SpexForLandCover, SpexProcessor, resolve_checkpoint
from spex_core.checkpoints import DEFAULT_CHECKPOINT
from spex_core.dcnv3 import dcnv3_portable
from spex_core.dcnv3_sampling import Sampling
from spex_core.decoding import DecodingRule
from spex_core.official_procedure import prompt_ids, published_mask
from spex_core.priors import AttributeRecord
from spex_core.prompts import SYSTEM_PREFIX, USER_SUFFIX, question_text
from spex_core.tokenizer import build_tokenizer

MODES = ("none", "brief", "full")
PUBLISHED_TOKENS = 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two classes stand for all in (a); fewer repeats")
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="built-in name or folder")
    parser.add_argument("--official", action="store_true", help="random weights of the full published layout instead")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tile", type=int, default=0, help="tile side, px; default 256, or 512 with --official")
    parser.add_argument("--tiles", type=int, default=4, help="tiles of a batch")
    options = parser.parse_args(arguments)

    device = torch.device(options.device)
    legend = Legend.from_yaml()
    model = (
        official_model()
        if options.official
        else SpexForLandCover.from_pretrained(resolve_checkpoint(options.checkpoint))
    )
    model = model.to(device)
    side = options.tile or (512 if options.official else 256)
    generator = torch.Generator().manual_seed(0)
    tiles = 0.3 * torch.rand(options.tiles, len(model.config.bands), side, side, generator=generator)
    questions = [q for tile in tiles for q in questions_of(model, tile, legend)]

    ours_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    published = measure_published(model, tiles[0].to(device), questions[: len(legend)], quick=options.quick)
    model = model.to(ours_dtype)
    ceiling = matmul_ceiling(device, ours_dtype, quick=options.quick)
    repeats = 1 if options.quick else 3
    ours = {}
    for mode in MODES:
        given = questions if options.official else None  # a model with index rules writes its questions itself
        run = lambda mode=mode, given=given: model.predict(tiles, legend, explain=mode, questions=given)  # noqa: E731
        run()
        ours[mode] = best_of(repeats, device, run) / len(tiles)
    with FlopCounterMode(display=False) as counter:
        model.predict(tiles, legend, questions=questions)
    flops = counter.get_total_flops() / len(tiles)
    parts = time_parts(model, tiles, questions, legend, device, ours_dtype)

    print(f"{model_words(model)} on {device_words(device)}, {len(tiles)} tiles of {side} px, {len(legend)} classes")
    print(f"\n{'procedure':44} {'s / tile':>9} {'tiles / s':>9} {'speedup':>8}")
    base = published[f"{PUBLISHED_TOKENS} tokens"]
    for name, seconds in published.items():
        print(f"{'(a) published, float32, ' + name:44} {seconds:9.3f} {1 / seconds:9.3f} {base / seconds:8.1f}")
    for mode, seconds in ours.items():
        words = f"(b) predict, {str(ours_dtype).removeprefix('torch.')}, explain={mode}"
        print(f"{words:44} {seconds:9.3f} {1 / seconds:9.3f} {base / seconds:8.1f}")
    print(f"\n{'part of (b), per tile':44} {'s':>9}")
    for name, seconds in parts.items():
        print(f"{name:44} {seconds:9.4f}")
    achieved = flops / ours["none"]
    print(f"\n{flops / 1e9:.1f} GFLOP a tile, {achieved / 1e9:.1f} GFLOP/s: {achieved / ceiling:.0%} of the measured")
    print(f"matmul ceiling of {ceiling / 1e9:.0f} GFLOP/s; peak memory {peak_memory(device) / 1e6:.0f} MB")
    result = {f"speedup_{mode}": round(base / seconds, 2) for mode, seconds in ours.items()}
    result["speedup_none_ending"] = round(published["until the end token"] / ours["none"], 2)
    result["share_of_matmul_ceiling"] = round(achieved / ceiling, 4)
    if device.type == "cuda":
        result["dcnv3_kernel_speedup"] = round(kernel_speedup(device), 2)
        print(f"DCNv3, 160 channels at 128 x 128: the kernel is {result['dcnv3_kernel_speedup']} x the portable path")
    print(json.dumps(result))


def measure_published(
    model: SpexForLandCover, tile: Tensor, questions: list[str], *, quick: bool, tokens: int = PUBLISHED_TOKENS
) -> dict[str, float]:
    """Seconds per tile of the published procedure over all questions, with forced and with natural length."""
    asked = questions[:2] if quick else questions
    prompts = [prompt_ids(model, question) for question in asked]
    never = DecodingRule((-1,))
    ending = model.decoding or DecodingRule((model.processor.tokenizer.eos_token_id,))
    published_mask(model, tile, prompts[0], decoding=ending, max_new_tokens=4)  # warm
    seconds = {}
    for name, rule in ((f"{tokens} tokens", never), ("until the end token", ending)):
        total = best_of(
            1,
            tile.device,
            lambda rule=rule: [
                published_mask(model, tile, ids, decoding=rule, max_new_tokens=tokens) for ids in prompts
            ],
        )
        seconds[name] = total / len(asked) * len(questions)
    return seconds


def time_parts(
    model: SpexForLandCover,
    tiles: Tensor,
    questions: list[str],
    legend: Legend,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Seconds per tile of every part of a pass, in order; decoding for ``explain="brief"``."""
    processor, classes = model.processor, len(legend)
    parts: dict[str, float] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        synchronise(device)
        started = time.perf_counter()
        yield
        synchronise(device)
        parts[name] = (time.perf_counter() - started) / len(tiles)

    with torch.inference_mode():
        with part("questions from the index rules"):
            for tile in tiles:
                questions_of(model, tile, legend)
        with part("tokenising"):
            text = processor.encode(questions, processor.short_answers(legend) * len(tiles)).to(device)
            open_text = processor.encode(questions, None).to(device)
        with part("vision"):
            vision = model.encode_image(tiles.to(device, dtype))
        with part("prefix (system and image, once per tile)"):
            cache = model.read_prefix(text.prefix_ids, vision.image_tokens, classes)
        with part("prompts with short answers"):
            states = model.read_suffix(text, cache)
        cache = model.read_prefix(text.prefix_ids, vision.image_tokens, classes)
        open_states = model.read_suffix(open_text, cache)
        with part("decoding, brief"):
            model.write_answers(open_text, open_states, cache, 48)
        with part("condensation and masks"):
            prompts = model.condensation(states, text.answer_mask).unflatten(0, (len(tiles), classes))
            model.mask_decoder(vision.image_embedding, prompts, vision.detail)
    return parts


def questions_of(model: SpexForLandCover, tile: Tensor, legend: Legend) -> list[str]:
    """The questions that a tile is asked; three made-up records a class where the model has no index rules."""
    if model.config.index_channels:
        return model.processor.questions(tile.numpy(), legend)
    box = ((0.123, 0.234), (0.345, 0.234), (0.345, 0.456), (0.123, 0.456))
    record = AttributeRecord("medium", (0.234, 0.345), "middle-left", box, 0.05, {})
    return [question_text(entry.noun, [record] * 3, ("size", "centroid", "location", "box"), 3) for entry in legend]


def official_model(device: torch.device | str = "cpu", **changes: Any) -> SpexForLandCover:
    """The full published layout with random weights, drawn on the device, and a small tokenizer.

    Args:
        device: Where the weights are wanted.
        changes: Fields of the layout that differ.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = SpexForLandCover(SpexConfig.official(**changes)).eval()
    tokenizer = build_tokenizer([SYSTEM_PREFIX, USER_SUFFIX, "Based on the provided image [0.123, 0.456]"] * 3)
    model.processor = SpexProcessor(tokenizer, bands=model.config.bands, digits=3)
    return model


def kernel_speedup(device: torch.device) -> float:
    """Time of the portable DCNv3 over that of the kernel, first stage of the published encoder, bfloat16."""
    portable_s, kernel_s, _ = time_dcnv3(device, channels=160, groups=10, side=128, tiles=4, repeats=10)
    return portable_s / kernel_s


def time_dcnv3(
    device: torch.device, *, channels: int, groups: int, side: int, tiles: int, repeats: int
) -> tuple[float, float, float]:
    """The portable DCNv3 beside the kernel, 3 x 3 points at the published offset scale.

    Args:
        device: A CUDA device, or the CPU in Triton's interpreter.
        channels: Width.
        groups: Channel groups.
        side: Rows and columns of the map.
        tiles: Maps at a time.
        repeats: Of each; the fastest counts.

    Returns:
        Seconds of the portable path and of the kernel, in bfloat16, and the largest difference of their outputs in
        float32, where values are of the order of 1.
    """
    from spex_core.dcnv3_triton import sample

    sampling = Sampling(offset_scale=2.0)
    widths = (channels, groups * sampling.points * 2, groups * sampling.points)
    exact = [torch.randn(tiles, side, side, width, device=device) for width in widths]
    half = [tensor.bfloat16() for tensor in exact]
    with torch.inference_mode():
        difference = dcnv3_portable(*exact, sampling, groups) - sample(*exact, sampling, groups)
        times = []
        for path in (dcnv3_portable, sample):
            path(*half, sampling, groups)
            times.append(best_of(repeats, device, lambda path=path: path(*half, sampling, groups)))
    return times[0], times[1], float(difference.abs().max())


def matmul_ceiling(device: torch.device, dtype: torch.dtype, *, quick: bool) -> float:
    """FLOP/s of the best square matrix product measured here."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        best = max(best, 2 * size**3 / best_of(2 if quick else 5, device, lambda a=a, b=b: a @ b))
    return best


def best_of(repeats: int, device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        run()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return min(times)


def synchronise(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, bytes: the device's, or this process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_words(device: torch.device) -> str:
    """The device by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def model_words(model: SpexForLandCover) -> str:
    """The model in a few words."""
    return f"SPEX, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {model.config.mixer}"


if __name__ == "__main__":
    main()
