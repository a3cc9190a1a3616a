"""How a run's model is computed: device, precision, compiled or not. Decided once, from the run file and the plan.

Pure functions without torch, because the plan needs their answers for the run's identity before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import (
    LEGEND_FILE,
    adapted_codes,
    check_checkpoint,
    checkpoint_fingerprint,
    resolve_checkpoint,
)
from spex_core.errors import CheckpointError
from spex_core.familiarity import Familiarity, read_familiarity
from spex_core.legend import Legend

if TYPE_CHECKING:
    from pipeline.settings.run_file import ComputeConfig, ModelConfig, RunConfig

INDEX_RULES = "index-rules"
"""Checkpoint name of the built-in baseline: the legend's index rules, no network, no weights."""
INDEX_RULES_VERSION = 1
"""Rises when the same rules give other scores."""
COMPILING_PAYS_TILES = 10_000
"""``model.compile: auto`` compiles from so many tiles on. An estimate, not measured on a GPU: about a minute of
compiling per actor against some milliseconds a tile."""

Kind = Literal["cpu", "cuda"]
TILES_PER_FORWARD: dict[Kind, int] = {"cpu": 1, "cuda": 4}
"""On a GPU what a block of the default size holds: tiles of two blocks never share a pass, and only full passes are
compiled."""
Precision = Literal["float32", "bfloat16"]
TEXT_IMAGES = {"none": 0, "brief": 1, "full": 3}
"""Most images of a sub-region that the model is asked about, by ``model.explain``."""
TEXT_CLASSES = 6
"""Most classes that it is asked about in each; one that the sub-region has not comes on top in the first."""


def device_for(config: ModelConfig, gpus_per_actor: float) -> str:
    """Device of one actor, as its own process sees it: ``auto`` is the GPU that Ray lends, else the CPU.

    Ray shows an actor no other GPU than those that it lends. So ``cuda:N`` is not a name inside of it: the run gives
    Ray that GPU alone (:func:`gpu_number`), and the actor finds it as its first.

    Raises:
        ConfigError: A CUDA device is asked for, but no GPU is reserved for the actors.
    """
    if config.device == "auto":
        return "cuda" if gpus_per_actor > 0 else "cpu"
    if config.device.startswith("cuda") and gpus_per_actor <= 0:
        raise ConfigError(f"model.device is {config.device!r}: set compute.gpus_per_actor to 1 as well")
    return config.device.split(":")[0]


def gpu_number(config: ModelConfig) -> int | None:
    """N of ``cuda:N``: the one GPU of this machine that the run may use, counted as CUDA programs count them here."""
    _, _, number = config.device.partition(":")
    return int(number) if number else None


def check_device(config: ModelConfig, compute: ComputeConfig) -> None:
    """Refuses a device that the actors of a run could not have.

    Raises:
        ConfigError: No GPU is reserved for them, or one is named where Ray chooses.
    """
    device_for(config, compute.gpus_per_actor)
    if gpu_number(config) is None:
        return
    if compute.address is not None:
        raise ConfigError(
            f"model.device is {config.device!r}, but on a cluster Ray chooses the GPU of each actor: set it to cuda"
        )
    if compute.gpus_per_actor > 1:
        raise ConfigError(
            f"model.device is {config.device!r}, but each actor takes {compute.gpus_per_actor:g} GPUs: set it to cuda, "
            "or compute.gpus_per_actor to 1 or less"
        )


def device_kind(config: ModelConfig, gpus_per_actor: float) -> Kind:
    """Kind of that device, for the run's identity: two GPUs of a machine are one kind."""
    if config.device.startswith("cuda"):
        return "cuda"
    return "cuda" if config.device == "auto" and gpus_per_actor > 0 else "cpu"


def precision_for(config: ModelConfig, kind: Kind) -> Precision:
    """``auto`` is bfloat16 on CUDA, where it is several times faster, and float32 on a CPU."""
    if config.precision == "auto":
        return "bfloat16" if kind == "cuda" else "float32"
    return config.precision


def tiles_per_forward(config: ModelConfig, kind: Kind) -> int:
    """Tiles in one forward pass. More than one on a CPU only means larger arrays; a GPU wants to be filled."""
    return config.tiles_per_forward or TILES_PER_FORWARD[kind]


def compiles(config: ModelConfig, kind: Kind, tiles: int) -> bool:
    """Whether the vision part is compiled; ``auto``: on CUDA, for plans of many tiles.

    Args:
        config: The run file's section.
        kind: Kind of device.
        tiles: Tiles of the whole plan.
    """
    if config.compile == "auto":
        return kind == "cuda" and tiles >= COMPILING_PAYS_TILES
    return config.compile == "on"


def check_model(config: ModelConfig, bands: Sequence[str] = SENTINEL2_BANDS) -> None:
    """Refuses a checkpoint that the run could not use, before any pixel is read.

    Args:
        config: The run file's section.
        bands: What the run reads (``source.bands``).

    Raises:
        CheckpointError: No such checkpoint, not a SPEX one, without a processor, or made for other bands.
    """
    if config.checkpoint != INDEX_RULES:
        check_checkpoint(resolve_checkpoint(config.checkpoint), bands)
    elif len(bands) < len(SENTINEL2_BANDS):
        raise CheckpointError(f"{INDEX_RULES} needs the ten bands, but source.bands names {' '.join(bands)}")


def text_questions(config: ModelConfig, regions: int) -> tuple[int, int]:
    """Most images and most questions with which a model is asked about so many sub-regions."""
    images = 0 if config.checkpoint == INDEX_RULES else regions * TEXT_IMAGES[config.explain]
    return images, images * TEXT_CLASSES + (regions if images else 0)


def with_own_legend(config: RunConfig) -> RunConfig:
    """A run whose file names no legend takes that of its checkpoint, where this answers only one (``spex adapt``)."""
    if "legend" in config.model_fields_set or config.model.checkpoint == INDEX_RULES:
        return config
    own = resolve_checkpoint(config.model.checkpoint) / LEGEND_FILE
    return config.model_copy(update={"legend": str(own)}) if own.is_file() else config


def familiarity_of(config: RunConfig) -> tuple[Familiarity | None, str]:
    """What the model of a run was trained on, where its map is to say how unlike it is; and why that is not known.

    The reason is empty where it is not asked for, where the checkpoint never had such a file, and where there is no
    such checkpoint: :func:`check_model` refuses that.
    """
    if not config.publish.unfamiliar or config.model.checkpoint == INDEX_RULES:
        return None, ""
    try:
        return read_familiarity(resolve_checkpoint(config.model.checkpoint))
    except CheckpointError:
        return None, ""


def check_legend(config: ModelConfig, legend: Legend) -> None:
    """Refuses a legend that a checkpoint was not adapted to.

    Raises:
        CheckpointError: It answers other codes, or they are in another order.
    """
    if config.checkpoint == INDEX_RULES:
        return
    folder = resolve_checkpoint(config.checkpoint)
    if (own := adapted_codes(folder)) and own != legend.codes:
        raise CheckpointError(
            f"checkpoint {folder} was adapted to a legend with the codes {' '.join(map(str, own))}, and the run's "
            f"legend {legend.name!r} has {' '.join(map(str, legend.codes))}: set legend to {folder / LEGEND_FILE}, or "
            "leave it out of the run file"
        )


def classifier_fingerprint(config: ModelConfig, legend: Legend) -> str:
    """Identity of the classifier that ``config`` names, without loading it.

    Raises:
        CheckpointError: No such checkpoint, or it has no weights.
    """
    if config.checkpoint == INDEX_RULES:
        return index_rules_fingerprint(legend)
    return checkpoint_fingerprint(resolve_checkpoint(config.checkpoint))


def index_rules_fingerprint(legend: Legend) -> str:
    """Identity of the index rules of a legend."""
    return f"{INDEX_RULES}:{INDEX_RULES_VERSION}:{legend.fingerprint(rules_only=True)}"
