"""Training the cloud network, in small: what it is shown, what it is told, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spex_core.cloud_classes import CLEAR, SHADOW, THICK, THIN
from spex_core.cloud_detector import CloudDetector
from spex_core.cloud_network import CloudNetwork, CloudNetworkConfig, load_weights
from spex_core.errors import CheckpointError
from workflows import train_clouds
from workflows.train_clouds import ANY_CLOUD, CROP, SIZE, Labelled, Sampler, loss_of

FLAT = np.array([0.05, 0.07, 0.06, 0.35, 0.20, 0.11], np.float32)[:, None, None] * np.ones((6, SIZE, SIZE), np.float32)


def test_a_crop_is_a_function_of_its_number() -> None:
    drawn = Labelled("drawn", FLAT[:, :200], np.full((200, SIZE), ANY_CLOUD, np.uint8))
    sampler = Sampler(FLAT[None].astype(np.float16), (FLAT[:, :100],), (drawn,), labelled_share=0.3)
    seen = set()
    for number in range(14):
        image, label, weight = sampler.crop(number)
        again = sampler.crop(number)
        assert image.shape == (6, CROP, CROP)
        assert label.shape == weight.shape == (CROP, CROP)
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(label, again[1])
        assert (weight[np.isnan(image).all(0)] == 0).all()
        assert 0 < (~np.isnan(image)).any((1, 2)).sum() <= 6
        seen |= set(np.unique(label).tolist())
    assert ANY_CLOUD in seen
    assert THICK in seen


def test_any_cloud_is_as_well_thick_as_thin() -> None:
    logits = torch.zeros(1, 5, 1, 4)
    for pixel, label in enumerate((THICK, THIN, SHADOW, CLEAR)):
        logits[0, label, 0, pixel] = 9
    cloud, one = torch.full((1, 1, 4), ANY_CLOUD), torch.ones(1, 1, 4)
    each = [float(loss_of(logits[..., i : i + 1], cloud[..., i : i + 1], one[..., i : i + 1])) for i in range(4)]
    assert max(each[:2]) < 0.01
    assert min(each[2:]) > 5
    assert float(loss_of(logits, cloud, torch.zeros(1, 1, 4))) == 0


def test_a_short_training_learns_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_clouds, "CROP", 64)
    torch.manual_seed(0)
    network = CloudNetwork(CloudNetworkConfig((8, 8, 8), 1))
    sampler = Sampler(FLAT[None].astype(np.float16), (), ())
    images, labels, weights = (
        torch.from_numpy(np.stack(parts)) for parts in zip(*[sampler.crop(i) for i in range(8)], strict=True)
    )
    with torch.no_grad():
        before = float(loss_of(network(images), labels.long(), weights))
    train_clouds.train(network, sampler, minutes=0.05, batch=2, rate=5e-3, first=1000, log=tmp_path / "log.txt")
    with torch.no_grad():
        assert float(loss_of(network(images), labels.long(), weights)) < before
    assert "step 1 " in (tmp_path / "log.txt").read_text()
    CloudDetector.from_network(network, [images]).save(tmp_path)
    assert CloudDetector.load(tmp_path).classes(images[0].numpy()).shape == (64, 64)


def test_answers_lose_what_the_loss_had_added() -> None:
    torch.manual_seed(1)
    network = CloudNetwork(CloudNetworkConfig((8, 8, 8), 1)).eval()
    image = torch.from_numpy(FLAT[None, :, :CROP, :CROP].copy())
    with torch.no_grad():
        before = network(image)
        train_clouds.without_class_weights(network)
        expected = torch.softmax(before, 1) / torch.tensor(train_clouds.CLASS_WEIGHT)[:, None, None]
        torch.testing.assert_close(torch.softmax(network(image), 1), expected / expected.sum(1, keepdim=True))


def test_training_goes_on_from_what_is_used_where_its_own_state_is_not_kept(tmp_path: Path) -> None:
    torch.manual_seed(2)
    images = [torch.from_numpy(FLAT[None, :, :64, :64] * np.linspace(0.2, 2, 64, dtype=np.float32)) for _ in range(2)]
    images = [image + 0.05 * torch.rand_like(image) for image in images]
    CloudDetector.from_network(CloudNetwork(CloudNetworkConfig((8, 8, 8), 1)), images).save(tmp_path)
    detector = CloudDetector.load(tmp_path)
    network = train_clouds.network_to_go_on(tmp_path, images)
    train_clouds.without_class_weights(network)
    with torch.no_grad():
        wanted, got = detector.logits(images[0]), network.eval()(images[0])
        learning = network.train()(torch.cat(images))  # its normalisations have the statistics of what they are fed
    assert float((got - wanted).abs().mean()) < 0.1 * float(wanted.std())
    assert float((learning[:1] - got).abs().mean()) < 0.3 * float(got.std())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_start_is_kept(share: float) -> None:
    first, second = (CloudNetwork(CloudNetworkConfig((8, 8, 8), 1)) for _ in range(2))
    start = {key: value.clone() for key, value in first.state_dict().items()}
    own = second.head.weight.clone()
    train_clouds.average(second, start, share)
    torch.testing.assert_close(second.head.weight, share * first.head.weight + (1 - share) * own)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    (tmp_path / "training.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_weights(CloudNetwork(CloudNetworkConfig((8, 8, 8), 1)), tmp_path / "training.safetensors")
