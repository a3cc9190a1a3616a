"""Trains the built-in checkpoint: ``python -m workflows.train OUTPUT --simulated CHIPS [--real CHIPS]``.

One process, resumable (run the same command again), deterministic for given chips, seed and thread count. The
checkpoint is written in half precision; ``from_pretrained`` loads it as float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from spex_core.answers import corpus
from spex_core.configuration import SpexConfig
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from spex_core.processing import SpexProcessor
from spex_core.prompts import END_OF_TURN, SYSTEM_PREFIX, USER_SUFFIX
from spex_core.tokenizer import build_tokenizer
from spex_core.training import ChipSource, Stage, TrainingConfig, train
from workflows.training_chips import BalancedChips, ChipFolder

OTHER_NOUNS = (
    "vegetation", "forest", "mangrove", "moss and lichen", "river", "lake", "sea", "road", "building", "impervious",
    "orchard", "vineyard", "rice paddy", "wheat", "maize", "burned area", "sand", "rock", "flooded", "solar panel",
)  # fmt: skip
"""Nouns of legends other than the default: the tokenizer learns them, the weights do not."""


def prompt_corpus(chips: ChipSource, legend: Legend, processor: SpexProcessor, seed: int, count: int = 40) -> list[str]:
    """Questions and answers that the tokenizer is trained on, in a fixed order."""
    texts = [SYSTEM_PREFIX, USER_SUFFIX, END_OF_TURN]
    for index in range(min(count, len(chips))):
        texts += processor.questions(chips.chip(index)[0], legend, max_records=3)
    nouns = [entry.noun for entry in legend]
    texts += corpus([*nouns, *(noun for noun in OTHER_NOUNS if noun not in nouns)], np.random.default_rng(seed), 300)
    return texts


def build_model(chips: ChipSource, legend: Legend, seed: int) -> SpexForLandCover:
    """A freshly initialised model with normalisation measured on the chips and a tokenizer trained on their prompts."""
    sample = np.concatenate(
        [chips.chip(i)[0][:, ::8, ::8].reshape(10, -1) for i in range(min(len(chips), 200))], axis=1
    )
    draft = SpexProcessor(build_tokenizer(["draft"], 300))
    tokenizer = build_tokenizer(prompt_corpus(chips, legend, draft, seed), 1024)
    torch.manual_seed(seed)
    config = SpexConfig(
        band_mean=[round(float(v), 4) for v in sample.mean(1)], band_std=[round(float(v), 4) for v in sample.std(1)]
    )
    config.text.vocab_size = len(tokenizer)
    config.text.eos_token_id = tokenizer.eos_token_id
    config.text.pad_token_id = tokenizer.pad_token_id
    model = SpexForLandCover(config)
    model.processor = SpexProcessor(
        tokenizer,
        bands=config.bands,
        attribute_records=config.attribute_records,
        attribute_fields=config.attribute_fields,
        digits=config.attribute_digits,
    )
    return model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m workflows.train", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the checkpoint; OUTPUT/training holds state and metrics")
    parser.add_argument(
        "--simulated", type=Path, required=True, help="chip folder (python -m workflows.training_chips)"
    )
    parser.add_argument("--real", type=Path, help="chip folder of real scenes")
    parser.add_argument("--real-share", type=float, default=0.3, help="share of real chips in a batch")
    parser.add_argument("--init", type=Path, help="checkpoint to start from (weights, normalisation and tokenizer)")
    parser.add_argument(
        "--stages",
        type=_stage,
        nargs="+",
        default=list(TrainingConfig().stages),
        help="stages as STEPS:BATCH:CROP_PX:MODE, mode 'words' (class words only) or 'prompt' (image and attributes)",
    )
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig().learning_rate)
    parser.add_argument("--balanced", action="store_true", help="draw simulated chips with rare classes more often")
    parser.add_argument("--held-out", type=int, default=16, help="last simulated chips that are only scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    legend = Legend.from_yaml()
    simulated = ChipFolder(arguments.simulated, legend)
    held_out = range(len(simulated) - arguments.held_out, len(simulated))
    trained_on: ChipSource = FirstChips(simulated, held_out.start)
    if arguments.balanced:
        trained_on = BalancedChips(trained_on, 4000, arguments.seed)
    sources: list[tuple[ChipSource, float]] = [(trained_on, 1.0)]
    if arguments.real:
        real = BalancedChips(ChipFolder(arguments.real, legend), 1000, arguments.seed)
        sources = [
            (sources[0][0], 1 - arguments.real_share),
            (real, arguments.real_share),
        ]
    if arguments.init:
        model = SpexForLandCover.from_pretrained(arguments.init)
    else:
        model = build_model(simulated, legend, arguments.seed)
    config = TrainingConfig(stages=tuple(arguments.stages), learning_rate=arguments.learning_rate, seed=arguments.seed)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {config.steps} steps", flush=True)
    trained = train(
        model,
        sources,
        legend,
        config,
        arguments.output / "training",
        (simulated, held_out),
        log=lambda line: print(line, flush=True),
    )
    trained.half().save_pretrained(arguments.output)
    print(f"wrote {arguments.output}")


def _stage(text: str) -> Stage:
    try:
        steps, batch, crop_px, mode = text.split(":")
        return Stage(int(steps), int(batch), int(crop_px), {"words": False, "prompt": True}[mode])
    except (ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not STEPS:BATCH:CROP_PX:words|prompt") from error


class FirstChips:
    """The first ``count`` chips of a source."""

    def __init__(self, source: ChipSource, count: int) -> None:
        self._source, self._count = source, count

    def __len__(self) -> int:
        return self._count

    def chip(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See :meth:`spex_core.training.ChipSource.chip`."""
        return self._source.chip(index)


if __name__ == "__main__":
    main()
