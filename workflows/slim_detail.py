"""Gives a checkpoint a cheaper detail branch: ``python -m workflows.slim_detail FILE --output FOLDER``.

FILE is a training file (see workflows/examples/slim_detail.yaml): ``model.init`` names the checkpoint to be slimmed,
whose ``mask_detail`` is ``full``; ``sources`` and ``optimiser`` give the views to learn from, its one stage their
number. The new branch (``half``, see :mod:`spex_core.detail`) and the layer that weighs its features learn to give the
checkpoint's own scores; everything else stays as it is, to the bit. No label is needed, so any imagery serves; labels
that are certain (simulated ones, not a teacher's opinion) have a say beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from pipeline.errors import BadInputError, ConfigError
from pipeline.machine.progress import Progress, progress_for
from pipeline.training.config import TrainFile
from pipeline.training.sources import open_sources, with_chips_made
from pipeline.training.worker import training_config
from spex_core.checkpoints import resolve_checkpoint
from spex_core.errors import CheckpointError, LegendError
from spex_core.legend import Legend

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spex_core.batches import StepBatch
    from spex_core.modeling import SpexForLandCover

DETAIL_CHANNELS = 16
RECORD_EVERY = 50
LABEL_SAY = 0.3
"""Weight of the labels' cross-entropy beside the divergence from the checkpoint's scores."""
CERTAIN = 0.99
"""Probability from which on a label is no opinion."""


def slim(file: TrainFile, progress: Progress) -> SpexForLandCover:
    """Distils; see the head of this file.

    Raises:
        ConfigError: The file names no checkpoint, or has more than one stage.
        CheckpointError: The checkpoint's detail is not ``full``.
    """
    import torch

    from spex_core.batches import Recipe, step_batches
    from spex_core.modeling import SpexForLandCover
    from spex_core.training import spans

    if file.model.init is None or len(file.stages) != 1:
        raise ConfigError("slim_detail needs model.init, a checkpoint, and one stage")
    torch.set_num_threads(file.compute.threads)
    torch.manual_seed(file.seed)
    legend = Legend.from_yaml(file.legend)
    chips = open_sources(with_chips_made(file, progress), legend, progress)
    config = training_config(file, chips)
    teacher = SpexForLandCover.from_pretrained(resolve_checkpoint(file.model.init)).eval()
    student = with_half_detail(teacher)
    learning = [*student.detail.parameters(), *student.mask_decoder.detail_hyper.parameters()]  # type: ignore[union-attr]
    average = copy.deepcopy(learning)
    optimiser = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=config.weight_decay)
    (span,) = spans(config.stages)
    recipe = Recipe(
        tuple(source for source, _ in chips.sources),
        tuple(weight for _, weight in chips.sources),
        legend,
        student.processor,  # type: ignore[arg-type]
        config.seed,
        config.band_subsets,
        needs_all_bands=not student.config.band_encoding,
        colours=config.colours,
        coarse_views=config.coarse_views,
    )
    with torch.inference_mode():
        prompts = teacher.class_word_prompts(legend)
    progress.start("distilling", span.stage.steps, "steps")
    total, began = np.zeros(3), time.monotonic()
    batches = step_batches(recipe, span.stage, span.steps, loaders=file.compute.loaders)
    for step, batch in zip(span.steps, batches, strict=True):
        divergence, apart, surprise = _losses(teacher, student, prompts.clone(), batch)
        loss = divergence + apart + LABEL_SAY * surprise
        optimiser.param_groups[0]["lr"] = span.learning_rate(step, config)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning, config.clip_norm)
        optimiser.step()
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(average, learning, 1 - decay)
        total += [float(part.detach()) for part in (divergence, apart, surprise)]
        if not np.isfinite(total).all():
            raise ConfigError(f"the loss is not finite at step {step + 1}; lower optimiser.learning_rate")
        progress.advance()
        if (step + 1) % RECORD_EVERY == 0:
            seconds = time.monotonic() - began
            means = dict(zip(("divergence", "masks", "surprise"), (total / RECORD_EVERY).tolist(), strict=True))
            progress.say(json.dumps({"step": step + 1, **means, "seconds": round(seconds)}))
            total[:] = 0.0
    with torch.no_grad():
        for weight, mean in zip(learning, average, strict=True):
            weight.copy_(mean)
    return student


def with_half_detail(teacher: SpexForLandCover) -> SpexForLandCover:
    """A copy of a model whose detail is new and at half size.

    Raises:
        CheckpointError: The model's detail is not ``full``.
    """
    from spex_core.modeling import SpexForLandCover

    if teacher.config.mask_detail != "full":
        raise CheckpointError(f"its mask_detail is {teacher.config.mask_detail} and not full: nothing to slim")
    config = copy.deepcopy(teacher.config)
    config.mask_detail, config.detail_channels = "half", DETAIL_CHANNELS
    student = SpexForLandCover(config)
    own = student.state_dict()
    kept = {
        name: value for name, value in teacher.state_dict().items() if name in own and own[name].shape == value.shape
    }
    kept = {name: value for name, value in kept.items() if not name.startswith("detail.")}
    student.load_state_dict(own | kept)
    student.processor = teacher.processor
    return student.eval()


def _losses(
    teacher: SpexForLandCover, student: SpexForLandCover, prompts: Tensor, batch: StepBatch
) -> tuple[Tensor, Tensor, Tensor]:
    """Means over pixels: Kullback-Leibler divergence of scores from the teacher's, divergence of the masks
    one by one (scores leave open what all masks have in common), and cross-entropy at labels that are certain."""
    import torch
    import torch.nn.functional as F

    pixels = batch.reflectance
    prompts = prompts.expand(len(pixels), -1, -1, -1)
    with torch.no_grad():
        inputs = teacher.spectral_input(pixels, None, batch.gsd_m)
        levels = teacher.encoder(inputs)
        aggregated = teacher.aggregator(levels)
        embedding = teacher.neck(aggregated)
        detail = _of(teacher.detail)(inputs, levels, aggregated)
        wanted_masks = teacher.mask_decoder(embedding, prompts, detail)
    detail = _of(student.detail)(inputs, levels, aggregated)
    masks = student.mask_decoder(embedding, prompts, detail)
    sure = torch.sigmoid(wanted_masks)
    apart = F.binary_cross_entropy_with_logits(masks, sure) - F.binary_cross_entropy_with_logits(wanted_masks, sure)
    temperature = teacher.config.temperature
    wanted, found = ((logits / temperature).log_softmax(dim=1) for logits in (wanted_masks, masks))
    divergence = (wanted.exp() * (wanted - found)).sum(1).mean()
    probability, label = batch.target.max(dim=1)
    certain = (probability >= CERTAIN) & (batch.weight > 0)
    surprise = -found.gather(1, label[:, None])[:, 0] * certain
    return divergence, apart, surprise.sum() / certain.sum().clamp(min=1)


def _of(detail: nn.Module | None) -> nn.Module:
    assert detail is not None
    return detail


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.slim_detail",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder of the new checkpoint; must not exist")
    options = parser.parse_args(arguments)
    from spex_core.training_state import write_half_precision

    try:
        if options.output.exists():
            raise ConfigError(f"{options.output} is there already; name another folder")
        file = TrainFile.from_yaml(options.file)
        with progress_for(Console(stderr=True)) as progress:
            student = slim(file, progress)
        write_half_precision(student, options.output)
    except (BadInputError, LegendError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {sum(weight.numel() for weight in student.parameters()):,} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
