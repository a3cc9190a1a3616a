"""Trains the cloud network: skies of every kind over simulated ground, and over real ground where some is given.

``python -m workflows.train_clouds --out folder`` needs nothing else. ``--real`` names a folder of sampled real scenes,
as in :mod:`workflows.teacher_scenes` (ground), and of scenes whose clouds people have drawn; ``--leave-out`` keeps one
of these for testing.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import safetensors.torch
import torch
from torch.nn import functional

from pipeline.simulation.chips import simulate_chip
from pipeline.simulation.skies import cover_ground
from spex_core.bands import BAND_INDEX
from spex_core.cloud_classes import CLEAR, CLOUD_CLASSES, SHADOW, SNOW, THICK, THIN, cloud_bands
from spex_core.cloud_detector import CloudDetector
from spex_core.cloud_network import CloudNetwork, load_weights
from workflows.teacher_scenes import real_scenes

FloatArray = npt.NDArray[np.float32]
SIZE = 256
"""Side of the tiles over which skies are drawn, pixels."""
CROP = 224
"""Side of what is shown to the network."""
TRAINED = "training.safetensors"
"""Weights that training can go on from."""
EXAMPLES = 12
"""Batches of eight that set the levels of activations."""
ANY_CLOUD = len(CLOUD_CLASSES)
"""Label of cloud that is not said to be thick or thin."""
CLASS_WEIGHT = (1.0, 1.0, 1.3, 1.5, 1.0)
NOT_GROUND = ("accra",)
"""Real scenes on which the network is tried."""
DRAWN = {0: SHADOW, 1: CLEAR, 2: SNOW, 3: CLEAR, 4: ANY_CLOUD}
"""Code in the drawn masks of ``clouds-ukis-landsat`` → label."""
_CHANNEL_BANDS = [BAND_INDEX[name] for name in cloud_bands(list(BAND_INDEX)) if name is not None]


@dataclass(frozen=True)
class Labelled:
    """A real image with what people say of it."""

    name: str
    reflectance: FloatArray
    """``[6, H, W]``."""
    label: npt.NDArray[np.uint8]


# --- ground -------------------------------------------------------------------------------------------------------


def simulated_ground(seed: int) -> FloatArray:
    """Two tiles of one world, float32 ``[2, 6, 256, 256]``: with pixels of 10 m and of 20 m."""
    image = simulate_chip(seed, 2 * SIZE, haze=0.0, offset_error=0.0)[0][_CHANNEL_BANDS]
    coarse = image.reshape(6, SIZE, 2, SIZE, 2).mean((2, 4))
    return np.stack([image[:, :SIZE, :SIZE], coarse])


def grounds(count: int, first_seed: int, processes: int) -> FloatArray:
    """Tiles of so many simulated worlds, float32 ``[2 * count, 6, 256, 256]``."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        made = list(pool.map(simulated_ground, range(first_seed, first_seed + count), chunksize=4))
    return np.concatenate(made)


def real_grounds(folder: Path) -> list[FloatArray]:
    """Real scenes without their clouds: float32 ``[6, H, W]``, NaN where something covers them."""
    return [
        np.where(scene.observed, scene.surface[_CHANNEL_BANDS], np.nan).astype(np.float32)
        for scene in real_scenes(folder)
        if scene.name not in NOT_GROUND
    ]


def drawn_masks(folder: Path, meanings: Mapping[int, int]) -> list[Labelled]:
    """The scenes of ``clouds-ukis-landsat``.

    Args:
        folder: Of the samples.
        meanings: Code in the masks (0 shadow, 1 water, 2 snow, 3 land, 4 cloud) → label.
    """
    found = []
    for path in sorted((folder / "clouds-ukis-landsat").glob("*_toa_reflectance.tif")):
        name = path.name.removesuffix("_toa_reflectance.tif")
        with rasterio.open(path) as image, rasterio.open(path.with_name(f"{name}_mask.tif")) as mask:
            codes = mask.read(1)
            label = np.zeros_like(codes)
            for code, meaning in meanings.items():
                label[codes == code] = meaning
            found.append(Labelled(name, image.read().astype(np.float32), label))
    return found


# --- samples ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampler:
    """Draws crops; a crop is a function of its number."""

    simulated: FloatArray
    real: tuple[FloatArray, ...]
    labelled: tuple[Labelled, ...]
    real_share: float = 0.45
    labelled_share: float = 0.0

    def crop(self, number: int) -> tuple[FloatArray, npt.NDArray[np.uint8], FloatArray]:
        """Reflectance ``[6, 224, 224]`` with missing channels NaN, labels and weights."""
        rng = np.random.default_rng([number, 0x436C6F75])
        if self.labelled and rng.random() < self.labelled_share:
            scene = self.labelled[rng.integers(len(self.labelled))]
            image = np.concatenate([scene.reflectance, scene.label[None].astype(np.float32)])
            image = _turned(rng, _piece(rng, image, CROP))
            gain = np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.04, (6, 1, 1)))
            reflectance = image[:6] * gain
            label, weight = image[6].astype(np.uint8), np.ones((CROP, CROP), np.float32)
        else:
            if self.real and rng.random() < self.real_share:
                ground = _piece(rng, self.real[rng.integers(len(self.real))], SIZE)
            else:
                ground = self.simulated[rng.integers(len(self.simulated))].astype(np.float32)
            covered = cover_ground(rng, _turned(rng, ground))
            reflectance, label, weight = covered.reflectance, covered.label, covered.weight
            row, col = rng.integers(0, SIZE - CROP + 1, 2)
            at = np.s_[row : row + CROP, col : col + CROP]
            reflectance, label, weight = reflectance[:, *at], label[at], weight[at]
        reflectance = _with_gaps(rng, np.asarray(reflectance, np.float32))
        return reflectance, label, weight * ~np.isnan(reflectance).all(0)


def _piece(rng: np.random.Generator, image: FloatArray, size: int) -> FloatArray:
    pads = [max(size - side, 0) for side in image.shape[1:]]
    if any(pads):
        image = np.pad(image, ((0, 0), (0, pads[0]), (0, pads[1])), "reflect")
    row, col = (int(rng.integers(0, side - size + 1)) for side in image.shape[1:])
    return image[:, row : row + size, col : col + size]


def _turned(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    image = np.rot90(image, int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(image[:, :, ::-1] if rng.random() < 0.5 else image)


def _with_gaps(rng: np.random.Generator, reflectance: FloatArray) -> FloatArray:
    """Bands that a sensor lacks, and the edge of a swath."""
    draw = rng.random()
    if draw < 0.15:
        reflectance[4:] = np.nan
    elif draw < 0.3:
        gone = rng.random(6) < 0.3
        reflectance[gone if gone.sum() < 4 else 5] = np.nan
    if rng.random() < 0.08:
        size = reflectance.shape[1]
        y, x = np.mgrid[:size, :size] - size / 2
        angle = rng.uniform(0, 2 * np.pi)
        reflectance[:, x * np.cos(angle) + y * np.sin(angle) > rng.uniform(-0.2, 0.45) * size] = np.nan
    return reflectance


_sampler: list[Sampler] = []


def _take(sampler: Sampler) -> None:
    _sampler[:] = [sampler]


def _crop(number: int) -> tuple[FloatArray, npt.NDArray[np.uint8], FloatArray]:
    return _sampler[0].crop(number)


def batches(sampler: Sampler, size: int, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches without end, the next ones made in another process."""
    with ProcessPoolExecutor(1, get_context("fork"), _take, (sampler,)) as pool:
        waiting = [pool.map(_crop, range(first + i * size, first + (i + 1) * size)) for i in range(4)]
        number = first + 4 * size
        while True:
            images, labels, weights = zip(*waiting.pop(0), strict=True)
            waiting.append(pool.map(_crop, range(number, number + size)))
            number += size
            yield (
                torch.from_numpy(np.stack(images)).to(memory_format=torch.channels_last),
                torch.from_numpy(np.stack(labels)).long(),
                torch.from_numpy(np.stack(weights)),
            )


# --- training -----------------------------------------------------------------------------------------------------


def loss_of(logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross entropy; where a label says only "cloud", thick and thin count together."""
    logs = functional.log_softmax(logits, 1)
    cloud = torch.logsumexp(logs[:, [THICK, THIN]], 1, keepdim=True)
    chosen = torch.cat([logs, cloud], 1).gather(1, label[:, None])[:, 0]
    weight = weight * torch.tensor([*CLASS_WEIGHT, 1.0])[label]
    return -(chosen * weight).sum() / weight.sum().clamp(min=1)


def network_to_go_on(folder: Path, examples: list[torch.Tensor]) -> CloudNetwork:
    """The network of a folder: as it was left by training, or, where that is not kept, made of what is used.

    Args:
        folder: With :data:`TRAINED`, or a checkpoint.
        examples: Batches; normalisations get the statistics of these.

    Raises:
        CheckpointError: The folder holds neither, or a damaged one.
    """
    if (folder / TRAINED).exists():
        network = CloudNetwork()
        load_weights(network, folder / TRAINED)
        return network
    network = CloudDetector.load(folder).to_network()
    with_class_weights(network)
    set_statistics(network, examples)
    return network


@torch.no_grad()
def set_statistics(network: CloudNetwork, examples: list[torch.Tensor]) -> None:
    """Gives normalisations without effect the mean and variance of what they are fed; the answers stay."""
    fed: dict[torch.nn.BatchNorm2d, list[torch.Tensor]] = {
        module: [] for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)
    }
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs: fed[module].append(
                torch.stack([inputs[0].mean((0, 2, 3)), (inputs[0] ** 2).mean((0, 2, 3))])
            )
        )
        for module in fed
    ]
    for batch in examples:
        network.eval()(batch)
    for hook in hooks:
        hook.remove()
    for module, moments in fed.items():
        mean, square = torch.stack(moments).mean(0)
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(mean)
        module.running_var.copy_((square - mean**2).clamp(min=1e-6))
        module.weight.copy_((module.running_var + module.eps).sqrt())
        module.bias += mean


def with_class_weights(network: CloudNetwork, sign: int = 1) -> None:
    """Puts :data:`CLASS_WEIGHT` into the answers, as a loss with these weights does; or takes it out."""
    with torch.no_grad():
        weights = torch.tensor(CLASS_WEIGHT).log().repeat_interleave(len(network.head.bias) // ANY_CLOUD)
        network.head.bias += sign * weights


def without_class_weights(network: CloudNetwork) -> None:
    """Takes :data:`CLASS_WEIGHT` out of the answers of a trained network.

    Weights in the loss make what was weighted look more frequent by that factor; the logits of the head say so, and
    less their logarithm they are those of the classes as they were drawn.
    """
    with_class_weights(network, -1)


def average(network: CloudNetwork, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Mixes weights with those that training began from: the mean of two states is often better than either.

    Wortsman et al. 2022, arXiv 2109.01903.
    """
    state = network.state_dict()
    network.load_state_dict(
        {key: value.lerp(start[key], share) if value.is_floating_point() else value for key, value in state.items()}
    )


def train(
    network: CloudNetwork, sampler: Sampler, minutes: float, batch: int, rate: float, first: int, log: Path
) -> None:
    """AdamW with one cycle of the learning rate, over minutes of wall time."""
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-3)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    network.to(memory_format=torch.channels_last)  # half the time of a step on a CPU
    began, told, recent, step = time.monotonic(), 0.0, 0.0, 0
    with log.open("a", encoding="utf-8") as lines:
        for image, label, weight in batches(sampler, batch, first):
            done = (time.monotonic() - began) / (60 * minutes)
            if done >= 1:
                break
            warm = min(1.0, (step + 1) / 100)
            for group in optimiser.param_groups:
                group["lr"] = rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            network.train()
            loss = loss_of(network(image), label, weight)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            average.update_parameters(network)
            step += 1
            recent = 0.98 * recent + 0.02 * float(loss.detach()) if step > 1 else float(loss.detach())
            if time.monotonic() - told > 30:
                print(f"{done:6.1%} step {step} loss {recent:.4f}", file=lines, flush=True)
                told = time.monotonic()
    network.load_state_dict(average.module.state_dict())
    network.eval()


def main() -> None:
    """Makes ground, trains, writes the checkpoint folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--ground", type=Path, help="file of simulated ground (.npy), made if missing")
    parser.add_argument("--worlds", type=int, default=220, help="simulated worlds")
    parser.add_argument("--real", type=Path, help="folder of sampled real scenes")
    parser.add_argument("--labelled-share", type=float, default=0.0, help="share of crops from drawn scenes")
    parser.add_argument("--leave-out", default="", help="name of a drawn scene that is not trained on")
    parser.add_argument("--start", type=Path, help="folder of a checkpoint to go on from")
    parser.add_argument("--keep", type=float, default=0.0, help="share of the weights of --start in the result")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ground = options.ground or options.out / "ground.npy"
    options.out.mkdir(parents=True, exist_ok=True)
    if not ground.exists():
        np.save(ground, grounds(options.worlds, 700_000, 2).astype(np.float16))
    simulated = np.load(ground, mmap_mode="r")
    real = tuple(real_grounds(options.real)) if options.real else ()
    drawn = drawn_masks(options.real, DRAWN) if options.real else []
    if options.leave_out and options.leave_out not in {scene.name for scene in drawn}:
        parser.error(f"--leave-out {options.leave_out}: there is no such drawn scene")
    labelled = tuple(scene for scene in drawn if scene.name != options.leave_out)
    if options.keep and not options.start:
        parser.error("--keep needs --start")
    torch.manual_seed(options.seed)
    sampler = Sampler(simulated, real, labelled, labelled_share=options.labelled_share)
    examples = [torch.from_numpy(np.stack([sampler.crop(8 * i + j)[0] for j in range(8)])) for i in range(EXAMPLES)]
    network = network_to_go_on(options.start, examples) if options.start else CloudNetwork()
    start = {key: value.clone() for key, value in network.state_dict().items()}
    train(network, sampler, options.minutes, options.batch, options.rate, options.seed * 10**8, options.out / "log.txt")
    average(network, start, options.keep)
    safetensors.torch.save_model(network, str(options.out / TRAINED))
    without_class_weights(network)
    CloudDetector.from_network(network, examples).save(options.out)


if __name__ == "__main__":
    main()
