"""The cloud network in whole numbers: it says what the trained one says, and a window does not show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spex_core.checkpoints import DEFAULT_CLOUD_CHECKPOINT, resolve_checkpoint
from spex_core.cloud_classes import CHANNELS, CLEAR, CLOUD_CLASSES, SHADOW, cloud_bands
from spex_core.cloud_detector import CloudDetector
from spex_core.cloud_network import HALO_PX, STEP_PX, CloudNetwork, CloudNetworkConfig
from spex_core.errors import CheckpointError, ModelInputError, SpexError


def small_network(seed: int = 0) -> CloudNetwork:
    torch.manual_seed(seed)
    network = CloudNetwork(CloudNetworkConfig((8, 12, 16), 2)).train()
    for _ in range(5):  # statistics of its normalisation
        network(torch.rand(4, 6, 64, 64) * 0.6)
    return network.eval()


@pytest.fixture(scope="module")
def detector() -> CloudDetector:
    return CloudDetector.from_network(small_network(), [torch.rand(4, 6, 64, 64) * 0.6])


@pytest.fixture(scope="module")
def built_in() -> CloudDetector:
    return CloudDetector.load(resolve_checkpoint(DEFAULT_CLOUD_CHECKPOINT))


def image(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth fields with noise, and gaps."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 0.9, (1, 6, height // 8, width // 8)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].numpy()
    fine = fine + rng.normal(0, 0.01, fine.shape).astype(np.float32)
    fine[:, rng.random((height, width)) < 0.01] = np.nan
    return np.ascontiguousarray(fine)


def test_it_says_what_the_trained_network_says(detector: CloudDetector) -> None:
    seen = torch.from_numpy(image(1, 128, 160))[None]
    with torch.no_grad():
        wanted = small_network()(seen)
    rounded = detector.logits(seen)
    assert (rounded.argmax(1) == wanted.argmax(1)).float().mean() > 0.97
    assert float((rounded - wanted).abs().mean()) < 0.1 * float(wanted.std())


@pytest.mark.parametrize("missing", [[], [4, 5]])
def test_the_network_made_of_it_says_the_same(built_in: CloudDetector, missing: list[int]) -> None:
    seen = torch.from_numpy(image(2, 128, 128))[None]
    seen[:, missing] = torch.nan
    rounded = built_in.logits(seen)
    with torch.no_grad():
        again = built_in.to_network()(seen)
    assert (rounded.argmax(1) == again.argmax(1)).float().mean() > 0.97
    assert float((rounded - again).abs().mean()) < 0.1 * float(rounded.std())


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10), st.integers(0, 10), st.integers(17, 24), st.integers(17, 24), st.integers(0, 5))
def test_windows_with_their_halo_agree_to_the_last_bit(
    detector: CloudDetector, down: int, right: int, tall: int, wide: int, seed: int
) -> None:
    whole = torch.from_numpy(image(seed, 288, 288))[None]
    top, left, height, width = (STEP_PX * v for v in (down, right, tall, wide))
    part = detector.logits(whole[:, :, top : top + height, left : left + width].contiguous())
    inner = np.s_[:, :, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
    assert torch.equal(part[inner], detector.logits(whole)[:, :, top : top + height, left : left + width][inner])


def test_nothing_beyond_the_halo_is_looked_at(built_in: CloudDetector) -> None:
    """By changing everything beyond it, for each place modulo the step."""
    seen = torch.from_numpy(image(3, 160, 160))[None]
    other = torch.from_numpy(image(4, 160, 160))[None]
    for place in range(80, 80 + STEP_PX):
        changed = other.clone()
        around = np.s_[:, :, place - HALO_PX : place + HALO_PX + 1, place - HALO_PX : place + HALO_PX + 1]
        changed[around] = seen[around]
        assert torch.equal(built_in.logits(changed)[..., place, place], built_in.logits(seen)[..., place, place])


def test_any_subset_of_bands_is_taken_and_a_shape_that_is_none_refused(built_in: CloudDetector) -> None:
    seen = image(5, 64, 64)
    for missing in ([], [4, 5], [0], [1, 2], [3, 4, 5], [0, 1, 2]):
        some = seen.copy()
        some[missing] = np.nan
        classes = built_in.classes(some)
        assert classes.dtype == np.uint8
        assert classes.shape == (64, 64)
        assert classes.max() < len(CLOUD_CLASSES)
    for wrong in ((6, 64, 63), (5, 64, 64), (6, 0, 64)):
        with pytest.raises(ModelInputError, match="multiples of 8"):
            built_in.classes(np.zeros(wrong, np.float32))


def test_dark_water_is_never_called_shadow_and_dark_land_may_be(detector: CloudDetector) -> None:
    tensors = dict(detector._tensors)
    bias = torch.full((4 * len(CLOUD_CLASSES),), -1000.0)
    bias[4 * SHADOW : 4 * SHADOW + 4] = 1000.0
    dark = CloudDetector(detector.config, {**tensors, "head.bias": bias})
    water, shaded_field = ((0.02, 0.02, 0.01, 0.01, 0.01, 0.01), (0.00, 0.01, 0.01, 0.08, 0.01, 0.01))
    for spectrum, said in ((water, CLEAR), (shaded_field, SHADOW)):
        image = np.array(spectrum, np.float32)[:, None, None] * np.ones((6, 16, 16), np.float32)
        assert (dark.classes(image) == said).all()
        for missing in (1, 3, 4):  # nothing is known to be water without these
            some = image.copy()
            some[missing] = np.nan
            assert (dark.classes(some) == SHADOW).all()


def test_bands_stand_in_for_each_other() -> None:
    assert cloud_bands(["B02", "B03", "B04", "B08", "B8A", "B11", "B12"]) == ("B02", "B03", "B04", "B8A", "B11", "B12")
    assert cloud_bands(["B03", "B04", "B08"]) == (None, "B03", "B04", "B08", None, None)
    assert cloud_bands(["B05", "B06", "B07"]) == (None, None, "B05", "B07", None, None)
    assert len(CHANNELS) == 6


def test_a_checkpoint_is_read_as_it_was_written(detector: CloudDetector, tmp_path: Path) -> None:
    detector.save(tmp_path)
    again = CloudDetector.load(tmp_path)
    seen = image(6, 64, 72)
    np.testing.assert_array_equal(again.classes(seen), detector.classes(seen))


def _config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _weights(name: str, to: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        changed = to(tensors.pop(name))
        save_file(tensors if changed is None else {**tensors, name: changed}, folder / "model.safetensors")

    return change


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "of type None"),
        (_config(model_type="spex"), "of type 'spex'"),
        (_config(classes=["clear", "cloud"]), "classes are not"),
        (_config(widths=[8, 12]), "three widths"),
        (_config(widths=[8, 12, 1e9]), "three widths"),
        (_config(widths="888"), "three widths"),
        (_config(deep_layers=True), "three widths"),
        (_config(deep_layers=None), "three widths"),
        (_config(deep_layers=3), "deep.2.weight"),
        (_weights("middle.weight", lambda _: None), "middle.weight"),
        (_weights("middle.weight", lambda t: t.float()), "middle.weight"),
        (_weights("head.bias", lambda t: t[:-1].clone()), "head.bias"),
        (_weights("fine.scale", lambda t: t * float("nan")), "not finite"),
        (_weights("presence", lambda t: t * float("inf")), "not finite"),
        (_weights("skip.fine", lambda t: t.reshape(1)), "skip.fine"),
    ],
)
def test_a_damaged_checkpoint_is_one_message(
    detector: CloudDetector, tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    detector.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(SpexError, match=words):
        CloudDetector.load(tmp_path)


def test_sums_that_could_not_be_exact_are_refused() -> None:
    config = CloudNetworkConfig((8, 8, 128), 1)
    network = CloudNetwork(config).eval()
    detector = CloudDetector.from_network(network, [torch.rand(1, 6, 64, 64)])
    tensors = dict(detector._tensors)
    tensors["deep.0.weight"] = torch.full_like(tensors["deep.0.weight"], 127)
    with pytest.raises(CheckpointError, match="not exact"):
        CloudDetector(config, tensors)
