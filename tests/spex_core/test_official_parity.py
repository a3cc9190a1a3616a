"""Every stage of the published implementation against ours, on its own tiny checkpoint.

``pytest -s tests/spex_core/test_official_parity.py`` prints the table of stages with their largest error.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spex_core.decoding import DecodingRule
from spex_core.mask_decoder import PositionEncoding
from spex_core.modeling import SpexForLandCover
from spex_core.official import convert_checkpoint
from spex_core.official_layout import our_name
from spex_core.official_procedure import (
    pooled_span,
    published_losses,
    published_mask,
    splice,
    training_labels,
)
from spex_core.priors import AttributeRecord
from spex_core.prompts import SYSTEM_PREFIX, USER_SUFFIX, question_text
from tests.spex_core.official_fixtures import FIXTURES, assert_matches, manifest, needs_fixtures, tensors

pytestmark = needs_fixtures

DTYPES = {"f64": torch.float64, "f32": torch.float32}
TABLE: dict[str, dict[str, float]] = {}


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Prints the largest error of every stage when all are done."""
    yield
    print(f"\n{'stage':34} {'float64':>9} {'float32':>9}")
    for stage, errors in TABLE.items():
        print(f"{stage:34} " + " ".join(f"{errors[p]:9.1e}" if p in errors else " " * 9 for p in DTYPES))


def check(precision: str, stage: str, actual: Tensor) -> None:
    """Compares one stage and notes its error."""
    expected = tensors(f"stages_{precision}")[stage]
    if expected.is_floating_point():
        TABLE.setdefault(stage, {})[precision] = float((actual.double() - expected.double()).abs().max())
        assert_matches(actual, expected)
    else:
        TABLE.setdefault(stage, {})[precision] = float((actual.long() - expected.long()).abs().max())
        assert torch.equal(actual, expected), stage


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official") / "converted"
    # The stored numbers were made with the float32 weights as they are.
    report = convert_checkpoint(FIXTURES / "tiny_ckpt", folder, keep_float32=True)
    assert (report.keys, report.rounded) == (310, 0)
    return folder


@pytest.fixture(scope="module", params=DTYPES)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(converted: Path, precision: str) -> SpexForLandCover:
    model = SpexForLandCover.from_pretrained(converted, official_numerics=True)
    assert model.config.double_softmax
    return model.to(DTYPES[precision])


def inputs(model: SpexForLandCover, name: str = "image") -> Tensor:
    """The stored images are normalised; ours are normalised by the model."""
    normalised = tensors("inputs")[name].to(model.dtype)
    return normalised * model.spectral_input.std + model.spectral_input.mean


def record(modules: dict[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    """Outputs of modules during a run; further outputs of a call get ``.0``, ``.1``."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, arguments: object, output: object) -> None:
            if isinstance(output, tuple):
                seen.update({f"{name}.{index}": part for index, part in enumerate(output)})
            else:
                seen[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_vision_stages(model: SpexForLandCover, precision: str) -> None:
    encoder, block = model.encoder, model.encoder.stages[0][0]
    modules: dict[str, nn.Module] = {
        "vision.patch_embed": encoder.stem,
        "vision.level0.block0.dcn": block.mixer,
        "vision.level0.block0.dcn.offset": block.mixer.offset,
        "vision.level0.block0.dcn.mask_logits": block.mixer.mask,
        "vision.agg.conv": model.aggregator.fuse,
        "vision.agg.groupnorm": model.aggregator.norm,
        "vision.agg.out": model.aggregator,
        "vision.neck.conv1": model.neck.conv1,
        "vision.neck.ln1": model.neck.norm1,
        "vision.neck.out": model.neck,
        "vision.sam_feat": model.neck,
        "projector.out": model.projector,
    }
    for level, stage in enumerate(encoder.stages):
        modules |= {f"vision.level{level}.block{index}": block for index, block in enumerate(stage)}
        if level < 3:
            modules[f"vision.level{level}.downsample"] = encoder.downsamples[level]
    seen = record(modules, lambda: model.encode_image(inputs(model)))
    seen["vision.llm_feat"] = seen["vision.agg.out"].flatten(2).transpose(1, 2)
    stored = {name for name in tensors("stages_f64") if name.startswith("vision.")}
    assert stored <= seen.keys()
    for name in modules | {"vision.llm_feat": None}:
        check(precision, name, seen[name])


def test_an_image_that_is_not_square(model: SpexForLandCover, precision: str) -> None:
    stages = model.encoder.stages
    modules = {"rect.level0.last": stages[0], "rect.level1.last": stages[1], "rect.level3.last": stages[3]}
    modules |= {"rect.sam_feat": model.neck, "rect.llm_feat": model.aggregator}
    seen = record(modules, lambda: model.encode_image(inputs(model, "image_rect")))
    seen["rect.llm_feat"] = seen["rect.llm_feat"].flatten(2).transpose(1, 2)
    for name in modules:
        check(precision, name, seen[name])


def test_prompts_and_language_model(model: SpexForLandCover, precision: str) -> None:
    stored = tensors("inputs")
    with torch.no_grad():
        image_tokens = model.encode_image(inputs(model)).image_tokens
        prompts = splice(model, stored["input_ids"], stored["attention_mask"], stored["labels"], image_tokens)
        check(precision, "splice.embeds", prompts.embeddings)
        check(precision, "splice.attention_mask", prompts.attention_mask)
        check(precision, "splice.labels", prompts.labels)
        output = model.language_model(
            inputs_embeds=prompts.embeddings, attention_mask=prompts.attention_mask, output_hidden_states=True
        )
        for index, states in enumerate(output.hidden_states):
            check(precision, f"llm.hidden{index}", states)
        check(precision, "llm.last_hidden", output.last_hidden_state)
        check(precision, "llm.logits", model.text_logits(output.last_hidden_state))
        check(precision, "llm.inv_freq", model.language_model.rotary_emb.frequencies(model.dtype))
        spans = [pooled_span(labels) for labels in prompts.labels]
        assert [[span.start, span.stop] for span in spans] == manifest()["run_info"]["train_pool_spans"]
        for row, span in enumerate(spans):
            states = output.last_hidden_state[row, span]
            check(precision, f"train.pool_in{row}", states)
            pooled = torch.nn.functional.adaptive_avg_pool1d(states.T[None], 4)[0].T
            check(precision, f"train.pool_out{row}", pooled)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 10, 33])
def test_condensation_of_odd_lengths(model: SpexForLandCover, precision: str, length: int) -> None:
    states = tensors(f"stages_{precision}")[f"neck.len{length}.in"]
    with torch.no_grad():
        out = model.condensation(states, torch.ones(states.shape[:2], dtype=torch.bool))
    check(precision, f"neck.len{length}.out", out)


def test_mask_decoder(model: SpexForLandCover, precision: str) -> None:
    decoder, heads = model.mask_decoder, model.mask_decoder.unused_heads
    modules: dict[str, nn.Module] = {
        "prompt.tokens": model.condensation,
        "sam.transformer.0": decoder.final_norm,
        "sam.image_pe": decoder.position,
        "sam.upscale_conv1": decoder.upscale1,
        "sam.upscale_ln": decoder.upscale_norm,
        "sam.upscale_conv2": decoder.upscale2,
        "sam.hyper0": decoder.hyper,
        "low": decoder,
    }
    for index, layer in enumerate(decoder.layers):
        modules[f"sam.layer{index}"] = layer
        modules[f"sam.layer{index}.t2i"] = layer.token_to_image
        modules[f"sam.layer{index}.i2t"] = layer.image_to_token
    stored = tensors("inputs")
    arguments = (stored[name] for name in ("input_ids", "attention_mask", "labels", "gt"))
    seen = record(modules, lambda: published_losses(model, inputs(model), *arguments))
    low, tokens = seen.pop("low"), seen["sam.transformer.0"]
    with torch.no_grad():
        for index, hyper in enumerate(heads.hyper, start=1):
            seen[f"sam.hyper{index}"] = hyper(tokens[:, index + 1])
        quality = heads.quality(tokens[:, 0])
    seen["sam.transformer.1"] = seen["sam.layer1.1"]
    check(precision, "prompt.tokens", seen.pop("prompt.tokens"))
    check(precision, "sam.image_pe", seen.pop("sam.image_pe"))
    for name, tensor in sorted(seen.items()):
        check(precision, name, tensor if tensor.ndim == 4 else tensor[:, None])
    check(precision, "sam.out.0", low[:, :, None])
    check(precision, "sam.out.1", quality[:, None, :1])
    assert {n for n in tensors("stages_f64") if n.startswith("sam.")} <= TABLE.keys()


def test_position_encoding_of_large_frequencies(model: SpexForLandCover, precision: str) -> None:
    expected = tensors(f"stages_{precision}")["pe_scale640.image_pe"]
    matrix = model.mask_decoder.position.positional_embedding * 640
    encoding = PositionEncoding(expected.shape[1]).to(model.dtype)
    encoding.positional_embedding = matrix
    actual = encoding(*expected.shape[-2:])
    TABLE.setdefault("pe_scale640.image_pe", {})[precision] = float((actual - expected).abs().max())
    torch.testing.assert_close(actual, expected, atol=1e-9 if precision == "f64" else 2e-3, rtol=0)


def training_batch(model: SpexForLandCover) -> tuple[Tensor, ...]:
    stored = tensors("inputs")
    return inputs(model), *(stored[name] for name in ("input_ids", "attention_mask", "labels", "gt"))


def check_losses(precision: str, prefix: str, losses) -> None:
    for name, value in (("ce", losses.ce), ("bce_x2", losses.bce), ("dice", losses.dice), ("total", losses.total)):
        check(precision, f"{prefix}.{name}", value.detach()[None])


def test_training_losses(model: SpexForLandCover, precision: str) -> None:
    with torch.no_grad():
        losses = published_losses(model, *training_batch(model))
    check(precision, "train.mask_logits_full", losses.mask_logits[:, None])
    check_losses(precision, "train", losses)


def test_training_gradients(model: SpexForLandCover, precision: str) -> None:
    model.zero_grad(set_to_none=True)
    published_losses(model, *training_batch(model)).total.backward()
    expected = tensors("train_grads_from_f64")
    parameters = dict(model.named_parameters())
    names = {our_name(key): key for key in expected}
    without = {name for name, parameter in parameters.items() if parameter.grad is None}
    assert {name for name in without if ".unused_heads." not in name} == set()
    worst = 0.0
    for name, key in names.items():
        if ".unused_heads." in name:  # stored as zero: they take no part
            assert torch.count_nonzero(expected[key]) == 0
            continue
        gradient = parameters[name].grad
        error = (gradient.double() - expected[key].double()).abs().max()
        worst = max(worst, float(error / expected[key].abs().max().clamp_min(1e-3)))
        if precision == "f64":  # stored as float32, of a float64 run
            torch.testing.assert_close(gradient.float(), expected[key], rtol=1e-6, atol=1e-9)
        else:
            assert_matches(gradient, expected[key])
    TABLE.setdefault("train gradients (relative)", {})[precision] = worst
    assert parameters.keys() - without <= names.keys()
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("ending", ["maxlen", "eos"])
@pytest.mark.parametrize("row", [0, 1])
def test_generation_and_masks(model: SpexForLandCover, precision: str, row: int, ending: str) -> None:
    stored, case = tensors(f"stages_{precision}"), f"gen{row}.{ending}"
    decoding = DecodingRule((manifest()["run_info"][f"gen{row}"]["eos_id"] if ending == "eos" else 501,))
    result = published_mask(
        model, inputs(model)[row], stored[f"{case}.prompt_ids"][0], max_new_tokens=12, decoding=decoding
    )
    check(precision, f"{case}.sequence", result.token_ids[None])
    check(precision, f"{case}.lan_feat", result.answer_states[None, None])
    check(precision, f"{case}.low_logits", result.logits[None, None, None])
    check(precision, f"{case}.sam_pred", result.mask[None])
    assert torch.equal(result.mask[None], stored[f"{case}.sam_pred"])
    pooled = torch.nn.functional.adaptive_avg_pool1d(result.answer_states.T[None], 4)[0].T
    check(precision, f"{case}.pool", pooled)
    with torch.no_grad():
        check(precision, f"{case}.prompt_tokens", model.condensation.mlp(pooled)[None])


def test_one_softmax_is_a_switch(converted: Path, precision: str) -> None:
    model = SpexForLandCover.from_pretrained(converted, double_softmax=False).to(DTYPES[precision])
    stored = tensors(f"stages_{precision}")
    result = published_mask(
        model, inputs(model)[0], stored["gen0.maxlen.prompt_ids"][0], max_new_tokens=12, decoding=DecodingRule((501,))
    )
    check(precision, "contrast.single_softmax_low_logits", result.logits[None, None, None])


def test_training_with_the_image_newline(converted: Path, precision: str) -> None:
    config = SpexForLandCover.config_class.from_pretrained(converted, image_newline=True, append_image_newline=True)
    state = SpexForLandCover.from_pretrained(converted).state_dict()
    stored = tensors(f"stages_{precision}")
    model = SpexForLandCover(config)
    model.load_state_dict(state | {"image_newline": tensors("stages_f64")["unpad.image_newline"]})
    model = model.to(DTYPES[precision]).eval()
    model.image_newline.data = stored["unpad.image_newline"].clone()
    batch = training_batch(model)
    with torch.no_grad():
        prompts = splice(model, batch[1], batch[2], batch[3], model.encode_image(batch[0]).image_tokens)
        check_losses(precision, "unpad", published_losses(model, *batch))
    check(precision, "unpad.embeds", prompts.embeddings)
    check(precision, "unpad.attention_mask", prompts.attention_mask)
    check(precision, "unpad.labels", prompts.labels)


def text_cases() -> dict:
    return json.loads((FIXTURES / "text.json").read_text())


def test_labels_and_pooled_spans_of_the_label_builder() -> None:
    for case in text_cases()["label_cases"]:
        labels = training_labels(
            torch.tensor(case["input_ids"]), start_id=500, end_id=501, newline_id=198, assistant_id=30
        )
        assert labels.tolist() == case["labels"]
        span = pooled_span(labels)
        assert [span.start, span.stop] == case["pooled_span"]


def test_questions_read_as_the_published_demo_texts() -> None:
    for name, prompt in text_cases()["prompts"].items():
        attributes = prompt[prompt.index(":[") + 1 : prompt.index("<|im_end|>\n<|im_start|>assistant")]
        stray = attributes.removesuffix('"') != attributes
        records = [
            AttributeRecord(
                size=record["Size of area"],
                centroid=tuple(record["Centroid"]),
                location=record["Location"],
                box=tuple(tuple(corner) for corner in record["Bounding box"]),
                share=0.0,
                indices={},
            )
            for record in ast.literal_eval(attributes.removesuffix('"'))
        ]
        question = question_text("vegetation", records, ("size", "centroid", "location", "box"), 3)
        assert question.startswith("\n")
        text = SYSTEM_PREFIX + "<image>\\n" + question[1:] + '"' * stray + USER_SUFFIX
        assert text == prompt, name
