"""One model for any subset of bands, at their own wavelengths and pixel sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spex_core.bands import BAND_SETS, BANDS, LANDSAT_BANDS, SENTINEL2_BANDS, Band, band_slots
from spex_core.errors import ModelInputError
from spex_core.indices import with_either_near_infrared
from spex_core.legend import Legend
from spex_core.modeling import SpexForLandCover
from tests.spex_core.conftest import build_tiny_model


@pytest.fixture(scope="module")
def model(legend: Legend) -> SpexForLandCover:
    built = build_tiny_model(legend, band_encoding=True)
    encoding = built.spectral_input.encoding
    with torch.no_grad():  # as after training: neither generator nor missing bands are neutral
        encoding.generator[2].weight.normal_(0, 0.1)
        encoding.missing.normal_(0, 0.5)
    return built


def test_landsat_bands_take_the_channels_nearest_in_wavelength() -> None:
    slots, _ = band_slots(LANDSAT_BANDS)
    assert [SENTINEL2_BANDS[slot] for slot in slots] == ["B02", "B03", "B04", "B8A", "B11", "B12"]


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (("B02", "B99"), "unknown band 'B99'"),
        ((Band("TIR", "lwir", 10_900.0, 100),), "near no band of Sentinel-2"),
        (("B02", Band("coastal", "coastal", 480.0, 30)), "both stand for B02"),
        ((), "no bands given"),
    ],
)
def test_impossible_bands_are_refused(bands: tuple[Band | str, ...], message: str) -> None:
    with pytest.raises(ModelInputError, match=message):
        band_slots(bands)


def test_a_fresh_encoding_changes_nothing_when_all_bands_are_there(legend: Legend, tiles: torch.Tensor) -> None:
    plain, encoded = build_tiny_model(legend), build_tiny_model(legend, band_encoding=True)
    encoded.load_state_dict(plain.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(encoded.spectral_input(tiles), plain.spectral_input(tiles), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(BAND_SETS))
def test_every_named_band_set_gives_scores(
    model: SpexForLandCover, legend: Legend, tiles: torch.Tensor, name: str
) -> None:
    bands = BAND_SETS[name]
    slots, _ = band_slots(bands)
    scores = model.predict(tiles[:, list(slots)], legend, bands=bands).scores
    assert scores.shape == (2, 9, 64, 64)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, 64, 64))


def test_the_order_of_bands_does_not_matter(model: SpexForLandCover, legend: Legend, tiles: torch.Tensor) -> None:
    forward = model.predict(tiles[:, [0, 1, 2, 6]], legend, bands=("B02", "B03", "B04", "B08")).scores
    backward = model.predict(tiles[:, [6, 2, 1, 0]], legend, bands=("B08", "B04", "B03", "B02")).scores
    torch.testing.assert_close(forward, backward)


def test_all_bands_by_name_are_the_default(model: SpexForLandCover, legend: Legend, tiles: torch.Tensor) -> None:
    named = model.predict(tiles, legend, bands=SENTINEL2_BANDS).scores
    torch.testing.assert_close(named, model.predict(tiles, legend).scores)


def test_wavelength_pixel_size_and_absence_reach_the_scores(
    model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    slots = [0, 1, 2, 7, 8, 9]
    landsat = model.predict(tiles[:, slots], legend, bands=LANDSAT_BANDS).scores
    others = {
        "wavelength": model.predict(tiles[:, slots], legend, bands=BAND_SETS["hls"], gsd_m=30.0).scores,
        "pixel size": model.predict(tiles[:, slots], legend, bands=BAND_SETS["hls"]).scores,
        "absence": model.predict(tiles[:, slots[:3]], legend, bands=LANDSAT_BANDS[:3]).scores,
    }
    for what, scores in others.items():
        assert (scores - landsat).abs().max() > 1e-6, what


def test_subsets_need_a_model_with_band_encoding(legend: Legend, tiles: torch.Tensor) -> None:
    with pytest.raises(ModelInputError, match="band_encoding"):
        build_tiny_model(legend).predict(tiles[:, :3], legend, bands=("B02", "B03", "B04"))


def test_named_and_given_bands_must_agree(model: SpexForLandCover, legend: Legend, tiles: torch.Tensor) -> None:
    with pytest.raises(ModelInputError, match="10 bands, but 3 were named"):
        model.predict(tiles, legend, bands=("B02", "B03", "B04"))


def test_a_missing_band_has_no_influence_and_gradients_stay_finite(
    model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    pixels = tiles.clone()
    pixels[:, [3, 4, 5, 7]] = torch.nan
    processor = model.processor
    text = processor.encode([q for _ in pixels for q in processor.questions(tiles[0].numpy(), legend, max_records=0)],
                            processor.short_answers(legend) * 2)  # fmt: skip
    output = model(pixels, text, gsd_m=torch.tensor([[float(band.gsd_m) for band in BANDS]] * 2))
    output.mask_logits.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    model.zero_grad()


def test_one_near_infrared_band_stands_in_for_the_other(tiles: torch.Tensor) -> None:
    for missing, there in ((6, 7), (7, 6)):
        pixels = tiles.clone()
        pixels[1, missing] = torch.nan
        filled = with_either_near_infrared(pixels)
        assert torch.equal(filled[0], tiles[0])
        assert torch.equal(filled[1, missing], tiles[1, there])
        assert np.array_equal(with_either_near_infrared(pixels.numpy()), filled.numpy())
        assert torch.isnan(pixels[1, missing]).all()  # the input stays as it was


def test_questions_of_a_sensor_with_one_near_infrared_band_hold_indices(
    model: SpexForLandCover, legend: Legend, tiles: torch.Tensor
) -> None:
    pixels = tiles[0].numpy().copy()
    pixels[[3, 4, 5, 6]] = np.nan
    questions = model.processor.questions(pixels, legend)
    assert any("NDVI" in question for question in questions)
    assert not any("nan" in question for question in questions)


def test_coarse_pixels_are_looked_at_twice(legend: Legend, tiles: torch.Tensor) -> None:
    model = build_tiny_model(legend, band_encoding=True).eval()
    six = tiles[:, [SENTINEL2_BANDS.index(name) for name in ("B02", "B03", "B04", "B8A", "B11", "B12")]]
    once = model.predict(six, legend, bands=LANDSAT_BANDS).scores
    ten = model.predict(tiles, legend).scores
    fine = torch.nn.functional.interpolate(six, scale_factor=2, mode="bilinear")
    halved = [Band(b.name, b.common_name, b.wavelength_nm, b.gsd_m // 2) for b in LANDSAT_BANDS]
    questions = [model.processor.question(entry, ()) for entry in legend] * len(tiles)
    finer = model.predict(fine, legend, bands=halved, questions=questions).scores
    expected = model.predict(six, legend, bands=LANDSAT_BANDS, questions=questions).scores
    expected = (expected + torch.nn.functional.avg_pool2d(finer, 2)) / 2

    model.config.finer_look_gsd_m = 15.0
    twice = model.predict(six, legend, bands=LANDSAT_BANDS, questions=questions).scores
    torch.testing.assert_close(twice, expected, atol=1e-3, rtol=0)  # the second look reuses the prompts of the first
    assert (twice - once).abs().max() > 1e-3
    torch.testing.assert_close(twice.sum(1), torch.ones_like(twice.sum(1)))
    torch.testing.assert_close(model.predict(tiles, legend).scores, ten, rtol=0, atol=0)  # 10 m: once
    assert not torch.equal(model.predict(tiles, legend, gsd_m=20.0).scores, ten)


def test_anchored_masks_are_asked_for_by_class_words_alone(legend: Legend, tiles: torch.Tensor) -> None:
    model = build_tiny_model(legend).eval()
    full = model.predict(tiles, legend).scores
    model.config.masks_by_class_words = True
    words = model.predict(tiles, legend).scores
    text = model.processor.class_words(legend)
    with torch.inference_mode():
        expected = model(tiles, text, see_image=False).mask_logits.softmax(1)
    torch.testing.assert_close(words, expected, atol=1e-5, rtol=1e-5)
    questions = [question for tile in tiles for question in model.processor.questions(tile.numpy(), legend)]
    torch.testing.assert_close(model.predict(tiles, legend, questions=questions).scores, full)  # given ones are asked
    assert model.predict(tiles, legend, explain="brief").texts[0]
