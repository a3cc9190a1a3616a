"""Refines a checkpoint with labels of people: ``python -m workflows.refine --output FOLDER --real FOLDER``.

Learns from simulated chips (``python -m workflows.training_chips``), from the same in the colours of measured spectra,
from scenes that people labelled (the training side of workflows/training/split/places.yaml), those that we labelled by
eye, and from what a teacher leaves open on other real scenes (``--teacher``). Each place is looked at twice in a step
(:mod:`workflows.labelled.views`), and the two answers must agree where they show the same ground. Language model,
projector and condensation rest, so the class words stay what they were.

A step of eight places takes a second or two on one CPU core. Stopped or killed, the same command goes on from the last
save.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.chips.chip_folder import ChipFolder
from pipeline.errors import BadInputError, ConfigError
from spex_core.checkpoints import resolve_checkpoint
from spex_core.errors import CheckpointError
from spex_core.legend import Legend
from spex_core.losses import class_weights
from workflows.labelled.by_eye import labelled_by_eye
from workflows.labelled.grounds import SimulatedGrounds, grounds_of, taught_grounds
from workflows.labelled.painting import palettes
from workflows.labelled.registry import Split, labelled_scenes, labelled_spectra
from workflows.labelled.views import Ground, Pair, look_twice

if TYPE_CHECKING:
    from spex_core.modeling import SpexForLandCover

REST = ("language_model", "projector", "condensation")
"""Parts that do not learn."""
SHARES = {"simulated": 0.40, "painted": 0.14, "labelled": 0.34, "taught": 0.12}
"""Of the places of a step; what is missing leaves its share to the others."""
COARSE = {"simulated": 0.3, "painted": 0.3, "labelled": 0.1, "taught": 0.2}
"""Of them, share whose 10 m pixels are averaged to 20 or 30 m."""
DATES_WEIGH = {"belgium-lpis-chips": 4.0, "gewata-ethiopia-landsat7": 1.5, "belgium-lpis-landsat8": 1.5,
               "zion-south-landsat8": 2.0, "elkton-landsat8": 0.7, "clouds-ukis-landsat": 0.5}  # fmt: skip
"""How often a sample is drawn, beside 1 of every other one: more where it has many dates or much ground."""
SIZE_PX, SHIFT_PX = 96, 32
BALANCE = 0.35
"""See :attr:`spex_core.training.TrainingConfig.class_balance`."""
WARM_UP, DECAY, CLIP = 100, 0.998, 1.0
RECORD_EVERY, SAVE_EVERY = 50, 250
STATE = "training/state.pt"


@dataclass(frozen=True)
class Land:
    """What is drawn from, by kind; the labelled ones by sample."""

    simulated: SimulatedGrounds | None
    painted: SimulatedGrounds | None
    labelled: tuple[tuple[float, tuple[Ground, ...]], ...]
    taught: tuple[Ground, ...]

    def draw(self, rng: np.random.Generator) -> tuple[Ground, float]:
        """A place, and the share of its views that are coarse."""
        kinds = [kind for kind in SHARES if getattr(self, kind)]
        shares = np.array([SHARES[kind] for kind in kinds])
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        chosen = getattr(self, kind)
        if isinstance(chosen, SimulatedGrounds):
            return chosen.draw(rng), COARSE[kind]
        if kind == "labelled":
            weights = np.array([weight for weight, _ in chosen])
            chosen = chosen[int(rng.choice(len(chosen), p=weights / weights.sum()))][1]
        return chosen[int(rng.integers(len(chosen)))], COARSE[kind]


def open_land(simulated: Path | None, real: Path | None, teacher: Path | None, legend: Legend) -> Land:
    """Reads everything that is given.

    Raises:
        ChipError: A folder or sample cannot be read, or a place is not in the split.
        ConfigError: Nothing is given.
    """
    chips = None if simulated is None else ChipFolder(simulated, legend)
    split = Split.from_yaml()
    samples: dict[str, list[Ground]] = {}
    colours = []
    if real is not None:
        scenes = [*labelled_scenes(real, split, "train"), *labelled_by_eye(real, split)]
        for ground in grounds_of(scenes, legend):
            samples.setdefault(ground.name.split("/")[0], []).append(ground)
        colours = palettes(labelled_spectra(real, split, "train"))
    land = Land(
        None if chips is None else SimulatedGrounds(chips, legend),
        SimulatedGrounds(chips, legend, tuple(colours)) if chips is not None and colours else None,
        tuple((DATES_WEIGH.get(name, 1.0), tuple(grounds)) for name, grounds in samples.items()),
        tuple(taught_grounds(real, teacher, legend, split)) if real is not None and teacher is not None else (),
    )
    if not (land.simulated or land.labelled):
        raise ConfigError("nothing to learn from: name a folder of chips (--simulated) or of samples (--real)")
    return land


@dataclass(frozen=True)
class Batch:
    """Views ``2 i`` and ``2 i + 1`` show one place."""

    reflectance: Tensor
    possible: Tensor
    """bool ``[B, K, H, W]``."""
    wavelength_nm: Tensor
    gsd_m: Tensor
    say: Tensor
    """``[B]``."""
    pairs: tuple[Pair, ...]


def batch_of(land: Land, classes: int, places: int, seed: int, step: int) -> Batch:
    """The views of a step: a function of seed and step."""
    rng = np.random.default_rng((seed, step))
    pairs = []
    for _ in range(places):
        ground, coarse = land.draw(rng)
        pairs.append(look_twice(ground, SIZE_PX, SHIFT_PX, rng, coarse))
    looks = [look for pair in pairs for look in pair.looks]
    bits = torch.from_numpy(np.stack([look.possible.astype(np.int32) for look in looks]))
    return Batch(
        torch.from_numpy(np.stack([look.reflectance for look in looks])),
        ((bits[:, None] >> torch.arange(classes)[None, :, None, None]) & 1).bool(),
        torch.from_numpy(np.stack([look.wavelength_nm for look in looks])),
        torch.from_numpy(np.stack([look.gsd_m for look in looks])),
        torch.tensor([look.say for look in looks]),
        tuple(pairs),
    )


def losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Three means over pixels.

    Args:
        logits: ``[B, K, H, W]``.
        batch: What they are about.

    Returns:
        Surprise: minus the logarithm of what the possible classes have together. Masks: binary cross-entropy where one
        class is possible. Disagreement: symmetric divergence of two looks at the same ground.
    """
    logs, possible = logits.log_softmax(dim=1), batch.possible
    told, single = possible.any(dim=1), possible.sum(dim=1) == 1
    channel = possible.to(torch.uint8).argmax(dim=1)
    rarity = class_weights(torch.bincount(channel[single], minlength=logits.shape[1]).double(), BALANCE).float()
    weight = told * batch.say[:, None, None]
    weight = torch.where(single, weight * rarity[channel], weight)
    surprise = -logs.masked_fill(~possible, -1e4).logsumexp(dim=1)
    masks = F.binary_cross_entropy_with_logits(logits, possible.float(), reduction="none").mean(dim=1)
    disagreement = logits.new_zeros(())
    for number, pair in enumerate(batch.pairs):
        first, second = (logs[2 * number + i][(slice(None), *pair.common[i])] for i in (0, 1))
        disagreement = disagreement + ((first.exp() - second.exp()) * (first - second)).sum(dim=0).mean()
    return (
        (surprise * weight)[told].sum() / weight.sum().clamp(min=1),
        (masks * weight * single).sum() / (weight * single).sum().clamp(min=1),
        disagreement / len(batch.pairs),
    )


@dataclass(frozen=True)
class Settings:
    """Of a refinement."""

    steps: int = 3000
    places: int = 8
    """Of a step; each is seen twice."""
    learning_rate: float = 4e-4
    weight_decay: float = 0.02
    agreement: float = 0.5
    """Weight of the disagreement; surprise has 2, masks have 1."""
    seed: int = 0


def refine(model: SpexForLandCover, land: Land, legend: Legend, settings: Settings, output: Path) -> SpexForLandCover:
    """Learns, or goes on where the same refinement stopped; returns the moving average of the weights.

    Raises:
        ConfigError: The model needs all bands, the loss is not finite, or the state in ``output`` is of another
            refinement.
    """
    if not model.config.band_encoding:
        raise ConfigError("labels come from sensors that lack bands: refining needs a checkpoint with band_encoding")
    with torch.inference_mode():
        words = model.class_word_prompts(legend)
    words = words.clone()  # outside of inference mode, so that gradients can pass through what reads them
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(REST))
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    average = [weight.detach().clone() for weight in learning]
    optimiser = torch.optim.AdamW(learning, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state, identity = output / STATE, json.dumps([vars(settings), sum(weight.numel() for weight in learning)])
    first = _restore(state, identity, learning, average, optimiser)
    totals, began = np.zeros(4), time.monotonic()
    for step in range(first, settings.steps):
        rate = settings.learning_rate * min(1.0, (step + 1) / WARM_UP)
        optimiser.param_groups[0]["lr"] = rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))
        batch = batch_of(land, len(legend), settings.places, settings.seed, step)
        vision = model.encode_image(batch.reflectance, batch.wavelength_nm, batch.gsd_m)
        prompts = words.expand(len(batch.reflectance), -1, -1, -1)
        surprise, masks, apart = losses(model.mask_logits(vision, prompts, batch.reflectance.shape[-2:]), batch)
        loss = 2 * surprise + masks + settings.agreement * apart
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(learning, CLIP)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, learning, 1 - min(DECAY, (step + 1) / (step + 10)))
        totals += [float(part.detach()) for part in (surprise, masks, apart, norm)]
        if not np.isfinite(totals).all():
            raise ConfigError(f"the loss is not finite at step {step + 1}; lower --rate")
        if (step + 1) % RECORD_EVERY == 0:
            named = zip(("surprise", "masks", "disagreement", "gradient_norm"), totals / RECORD_EVERY, strict=True)
            means = {name: round(value, 4) for name, value in named}
            print(json.dumps({"step": step + 1, **means, "seconds": round(time.monotonic() - began)}), flush=True)
            totals[:] = 0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
            _save(state, {"identity": identity, "step": step + 1, "learning": learning, "average": average}, optimiser)
    result = copy.deepcopy(model)
    with torch.no_grad():
        averaged = [weight for weight in result.parameters() if weight.requires_grad]
        for weight, mean in zip(averaged, average, strict=True):
            weight.copy_(mean)
    result.processor = model.processor
    return result


def _save(state: Path, parts: dict[str, object], optimiser: torch.optim.Optimizer) -> None:
    from spex_core.durable_files import new_draft, put_in_place

    state.parent.mkdir(parents=True, exist_ok=True)
    draft = new_draft(state)
    torch.save({**parts, "optimiser": optimiser.state_dict()}, draft)
    put_in_place(draft, state)


def _restore(
    state: Path, identity: str, learning: Sequence[Tensor], average: Sequence[Tensor], optimiser: torch.optim.Optimizer
) -> int:
    if not state.exists():
        return 0
    saved = torch.load(state, weights_only=True)
    if saved["identity"] != identity:
        raise ConfigError(f"{state} is of another refinement; name another --output, or remove it")
    with torch.no_grad():
        for kept, name in ((learning, "learning"), (average, "average")):
            for weight, value in zip(kept, saved[name], strict=True):
                weight.copy_(value)
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (2 for bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m workflows.refine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of training state and of the checkpoint, last/"
    )
    parser.add_argument("--start", default="spex-s2-tiny", help="checkpoint: built-in name or folder")
    parser.add_argument("--simulated", type=Path, help="chip folder of simulated land")
    parser.add_argument("--real", type=Path, help="folder of the samples (see docs/training-data.md)")
    parser.add_argument("--teacher", type=Path, help="folder of Dynamic World (see workflows.teacher_chips)")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--places", type=int, default=Settings.places, help="of a step; each is looked at twice")
    parser.add_argument("--rate", type=float, default=Settings.learning_rate, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    from spex_core.modeling import SpexForLandCover
    from spex_core.training_state import write_half_precision

    try:
        torch.set_num_threads(given.threads)
        legend = Legend.from_yaml()
        model = SpexForLandCover.from_pretrained(resolve_checkpoint(given.start)).float().eval()
        land = open_land(given.simulated, given.real, given.teacher, legend)
        settings = Settings(given.steps, given.places, given.rate, seed=given.seed)
        refined = refine(model, land, legend, settings, given.output)
        write_half_precision(refined, given.output / "last")
    except (BadInputError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {given.output / 'last'}; its temperature is still that of {given.start}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
