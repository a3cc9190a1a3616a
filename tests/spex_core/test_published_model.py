"""A published checkpoint behind the door of the ten-band models: its picture, its questions, its masks joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.imagery.true_color import true_color
from spex_core import Legend, ModelInputError
from spex_core.bands import BAND_INDEX, SENTINEL2_BANDS
from spex_core.checkpoints import check_checkpoint
from spex_core.errors import CheckpointError
from spex_core.official_procedure import prompt_ids, published_mask
from spex_core.published_model import PublishedSpex, TrueColorInput, joined, load_sentinel2_model
from tests.spex_core.published_state import TWO_CLASSES, converted, tiny_published_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def model(folder: Path) -> PublishedSpex:
    loaded = load_sentinel2_model(folder)
    assert isinstance(loaded, PublishedSpex)
    return loaded


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Legend:
    path = tmp_path_factory.mktemp("legend") / "two.yaml"
    path.write_text(TWO_CLASSES)
    return Legend.from_yaml(path)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Plants left, water right, float32 ``[1, 10, 512, 512]``."""
    rng = np.random.default_rng(0)
    plants = np.array([0.03, 0.05, 0.03, 0.08, 0.22, 0.28, 0.30, 0.31, 0.15, 0.07])
    water = np.array([0.05, 0.05, 0.03, 0.02, 0.01, 0.01, 0.01, 0.01, 0.005, 0.003])
    pixels = np.where(np.arange(512) < 300, plants[:, None, None], water[:, None, None])
    return torch.from_numpy((pixels + rng.normal(0, 0.002, (1, 10, 512, 512))).astype(np.float32))


# --- the picture --------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, (10, 3, 4), elements=st.floats(-0.25, 1.5, width=32)))
def test_the_model_sees_the_picture_that_lies_beside_the_map(reflectance: np.ndarray) -> None:
    seen = TrueColorInput(tiny_published_config()).picture(torch.from_numpy(reflectance)[None])[0]
    assert np.array_equal((seen * 255).numpy(), true_color(reflectance).astype(np.float32))


def test_a_pixel_of_the_picture_does_not_know_its_image(image: torch.Tensor) -> None:
    seen = TrueColorInput(tiny_published_config()).picture
    bright = image.clone()
    bright[..., 256:] = 0.9
    assert torch.equal(seen(image)[..., :256], seen(bright)[..., :256])
    other = image.clone()
    other[:, [BAND_INDEX[name] for name in ("B05", "B08", "B11")]] = 0.5
    assert torch.equal(seen(image), seen(other))


def test_loading_fills_the_stretch_and_the_normalisation(model: PublishedSpex) -> None:
    fresh = TrueColorInput(model.config)
    for name in ("table", "mean", "std"):
        assert torch.equal(getattr(model.spectral_input, name), getattr(fresh, name)), name


# --- masks joined -------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, (4, 2, 2), elements=st.floats(-30, 30)))
def test_masks_are_joined_by_their_odds(logits: np.ndarray) -> None:
    scores = joined(torch.from_numpy(logits)).numpy()
    odds = np.exp(logits)
    assert np.allclose(scores, (odds + 1 / 4) / (1 + odds.sum(axis=0)), atol=1e-12)
    assert np.allclose(scores.sum(axis=0), 1)
    best = np.take_along_axis(scores, logits.argmax(axis=0)[None], axis=0)
    assert np.allclose(best, scores.max(axis=0), atol=1e-12)


def test_a_pixel_that_no_mask_claims_keeps_its_order_and_no_confidence() -> None:
    unclaimed = joined(torch.tensor([-9.0, -8.0, -10.0])[:, None, None]).flatten()
    assert unclaimed.argmax() == 1
    assert unclaimed.max() < 0.334
    claimed = joined(torch.tensor([6.0, -8.0, -10.0])[:, None, None]).flatten()
    assert claimed[0] > 0.99


# --- questions ----------------------------------------------------------------------------------------------------


def test_bands_that_it_does_not_see_enter_as_words(model: PublishedSpex, image: torch.Tensor, two: Legend) -> None:
    plants, water = model.questions(image[0].numpy(), two)
    assert plants.startswith("\\nBased on the provided image and the attributes of the vegetation regions")
    assert "'Centroid': [0.292" in plants
    assert "'Location': 'middle-right'" in water
    assert "'Bounding box'" in plants
    bare = image.clone()
    bare[:, [BAND_INDEX["B08"], BAND_INDEX["B8A"]]] = 0.02  # no colour changes
    assert model.questions(bare[0].numpy(), two)[0].endswith(":[]")


def test_records_that_do_not_fit_the_context_are_left_out_from_the_last(
    model: PublishedSpex, image: torch.Tensor, two: Legend, monkeypatch: pytest.MonkeyPatch
) -> None:
    spots = image.clone()
    for row in range(40, 400, 60):
        spots[0, :, row : row + 20, 400:420] = image[0, :, row : row + 20, 100:120]
    whole = model.questions(spots[0].numpy(), two)[0]
    assert whole.count("Centroid") == 7
    room = model._tokens(whole)
    monkeypatch.setattr(PublishedSpex, "_room", lambda _: room - 1)
    cut = model.questions(spots[0].numpy(), two)[0]
    assert cut.count("Centroid") == 6
    assert whole.startswith(cut[:-1])


# --- answers and masks --------------------------------------------------------------------------------------------


def test_masks_hang_on_the_answers_as_in_the_published_procedure(
    model: PublishedSpex, image: torch.Tensor, two: Legend
) -> None:
    found = model.predict(image, two, explain="full")
    assert found.scores is not None
    assert found.texts is not None
    picture = model.spectral_input.picture(image)[0]
    questions = model.questions(image[0].numpy(), two)
    plain = _as_published(model)
    answers = [published_mask(plain, picture, prompt_ids(plain, question)) for question in questions]
    for text, answer in zip(found.texts[0], answers, strict=True):
        ends = plain.decoding.end_ids
        written = plain.processor.decode([t for t in answer.token_ids.tolist() if t not in ends])
        assert text == written or written.startswith(text)  # one that was cut ends with its last whole sentence
    logits = torch.stack([answer.logits for answer in answers])
    resized = torch.nn.functional.interpolate(logits[None], (512, 512), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found.scores[0], joined(resized), atol=1e-4, rtol=1e-3)
    assert len(found.scores[0].argmax(0).unique()) == 2


def _as_published(model: PublishedSpex) -> PublishedSpex:
    """The same network, given pictures."""
    plain = PublishedSpex(model.config).eval()
    plain.load_state_dict(model.state_dict())
    plain.processor, plain.decoding = model.processor, model.decoding
    pictures = super(TrueColorInput, plain.spectral_input).forward
    plain.spectral_input.forward = lambda pixels, *_: pictures(pixels)  # type: ignore[method-assign]
    return plain


def test_groups_of_questions_and_bands_that_are_not_read(
    model: PublishedSpex, image: torch.Tensor, two: Legend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.predict(image, two).scores
    monkeypatch.setattr("spex_core.published_model.QUESTIONS_AT_ONCE", 1)
    torch.testing.assert_close(model.predict(image, two).scores, whole, atol=1e-4, rtol=1e-3)
    four = ["B02", "B03", "B04", "B08"]
    some = image[:, [BAND_INDEX[name] for name in four]]
    assert model.predict(some, two, bands=four).scores.shape == (1, 2, 512, 512)
    with pytest.raises(ModelInputError, match="sees B04 B03 B02: one of them is missing"):
        model.predict(some[:, 1:], two, bands=four[1:])


def test_bands_are_checked_before_a_run(folder: Path) -> None:
    check_checkpoint(folder, SENTINEL2_BANDS)
    check_checkpoint(folder, ["B02", "B03", "B04"])
    with pytest.raises(CheckpointError, match="sees red, green and blue, but the run does not read B04 B02"):
        check_checkpoint(folder, ["B03", "B08", "B11"])
