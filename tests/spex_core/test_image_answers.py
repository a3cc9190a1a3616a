"""Questions about many images in one pass are answered as they are one by one, and keep to what they may quote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage

from spex_core.answer_check import check_facts
from spex_core.asked_images import AskedImage, ImageQuestion
from spex_core.checkpoints import resolve_checkpoint
from spex_core.image_answers import answer_images
from spex_core.label_facts import ClassFacts, class_facts
from spex_core.map_prompts import map_question, map_quotes
from spex_core.modeling import SpexForLandCover

NOUNS = ("tree", "water", "cropland")
SIDE = 64


@pytest.fixture(scope="module")
def model() -> SpexForLandCover:
    return SpexForLandCover.from_pretrained(resolve_checkpoint("spex-s2-tiny"))


def an_image(seed: int) -> tuple[AskedImage, list[ClassFacts]]:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0.02, 0.4, (10, SIDE, SIDE)).astype(np.float32)
    codes = np.digitize(ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 8) * 20, [-0.5, 0.5])
    asked = NOUNS[: 2 + seed % 2]
    facts = [
        class_facts(codes == k, pixels, {other: codes == j for j, other in enumerate(NOUNS) if j != k})
        for k in range(len(asked))
    ]
    questions = tuple(
        ImageQuestion(map_question(noun, found), map_quotes(noun, found))
        for noun, found in zip(asked, facts, strict=True)
    )
    return AskedImage(pixels, 20.0, questions), facts


def test_together_as_one_by_one_and_in_any_thread(model: SpexForLandCover) -> None:
    images = [an_image(seed)[0] for seed in range(3)]
    together = answer_images(model, images, 60)
    assert together == [answer_images(model, [image], 60)[0] for image in images]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: answer_images(model, images, 60), range(2))) == [together, together]


def test_numbers_hold_because_they_are_quoted(model: SpexForLandCover) -> None:
    claims = []
    for seed in range(3):
        image, facts = an_image(seed)
        for noun, found, answer in zip(NOUNS, facts, answer_images(model, [image], 160)[0], strict=False):
            claims += check_facts(answer, noun, found)
    quoted = [claim for claim in claims if claim.kind in ("amount", "index", "neighbour")]
    assert quoted
    assert all(claim.supported for claim in quoted)


def test_what_does_not_fit_into_the_context_is_not_answered(model: SpexForLandCover) -> None:
    image, _ = an_image(0)
    assert answer_images(model, [image], model.config.text.max_position_embeddings) == [["", ""]]
