"""From a run file and labels to a checkpoint folder: legend, chips, head, validation, card."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from pipeline.adaptation.card import card_text
from pipeline.adaptation.domain import outside_share
from pipeline.adaptation.fitting import Head, Labels, fit_head, rows
from pipeline.adaptation.map_labels import found_labels, joined, map_labels, taken_codes
from pipeline.adaptation.own_legend import matched, proposed_legend, similar_code
from pipeline.adaptation.result import Adaptation
from pipeline.adaptation.samples import LabelledPixel, block_ids, block_side, labelled_pixels
from pipeline.adaptation.seen import Chip, Onlooker, Seen
from pipeline.adaptation.survey import Survey, read_survey
from pipeline.adaptation.validation import thinned, validate
from pipeline.errors import OutputError, SurveyError
from pipeline.machine.progress import Progress
from pipeline.planning.prepare import Prepared
from pipeline.runs.preparation import prepare_run
from pipeline.settings.run_file import RunConfig
from spex_core.bands import SENTINEL2_BANDS
from spex_core.checkpoints import LEGEND_FILE, checkpoint_fingerprint, resolve_checkpoint
from spex_core.durable_files import DRAFT_MARK, make_folder, put_in_place
from spex_core.familiarity import inherit_familiarity
from spex_core.legend import Legend

LEAST_SAMPLES = 5
"""Pixels of a class without which it is not learnt."""
MOST_SAMPLES = 5000
"""More are thinned evenly: they cost minutes and bring nothing that blocks would show."""
MOST_GAP_M = 300.0
FIGURES_FILE = "validation.json"
CARD_FILE = "README.md"
DOMAIN_WINDOWS = 16
"""Of each zone."""


@dataclass(frozen=True)
class AdaptOptions:
    """What the command line says beside the run file."""

    points: Path | None
    """A survey; None: labels are those of a land-cover product alone."""
    class_field: str
    output: Path
    legend: Path | None = None
    """None: proposed from the names."""
    layer: str | None = None
    where: str | None = None
    replace: bool = False
    """An adapted checkpoint in the output folder gives way."""
    labels: bool = False
    """Labels of a land-cover product, instead of a survey or beside it."""
    labels_url: str | None = None
    """Catalog of that product; None: the provider's, or the run's own."""

    full: bool = False
    """Trains the whole model after the head."""
    on_cpu: bool = False
    """Also where there is no GPU."""

    @property
    def called(self) -> str:
        """What the labels are called for people."""
        return self.points.name if self.points is not None else "ESA WorldCover"


def adapt(config: RunConfig, options: AdaptOptions, progress: Progress) -> Adaptation:
    """Makes a checkpoint of the run's model for the legend of a survey.

    Args:
        config: The run: its region, scenes and composite; ``model.checkpoint`` is what is adapted.
        options: The survey, and where the checkpoint goes.
        progress: Where progress is told.

    Raises:
        SurveyError: The points cannot be used; the message says why.
        OutputError: The folder holds something else, or cannot be written.
        BadInputError: Something else that the user gave is wrong.
        CheckpointError: The model cannot be adapted.
        CatalogError: The catalog does not answer.
    """
    begun = time.monotonic()
    _check_output(options)
    if options.full:
        from pipeline.adaptation.whole_model import check_patience

        check_patience(options.on_cpu)
    if options.points is None and not options.labels:
        raise SurveyError("there are no labels: give --points FILE, --labels worldcover, or both")
    survey = Survey()
    if options.points is not None:
        survey = read_survey(options.points, options.class_field, layer=options.layer, where=options.where)
    given = None if options.legend is None else Legend.from_yaml(options.legend)
    if given is not None and options.points is not None:
        matched(given, survey.names, options.points)
    import torch

    from spex_core import SpexForLandCover
    from spex_core.adapting import adapted_model, check_adaptable

    folder = resolve_checkpoint(config.model.checkpoint)
    model: Any = SpexForLandCover.from_pretrained(folder)
    check_adaptable(model, config.model.checkpoint)
    stored = _stored_type(folder)
    torch.set_num_threads(config.compute.threads_per_actor)
    shipped = Legend.from_yaml()
    with progress:
        with progress.waiting(f"searching scenes for {config.name}, {config.start} to {config.end}"):
            prepared = prepare_run(config.model_copy(update={"legend": shipped.name}), progress)
        product = None
        if options.labels:
            with progress.waiting("searching labels"):
                product = found_labels(prepared, options.labels_url)
        taken = taken_codes(shipped, survey.names) if product is not None else {}
        legend, labels, positions = _classes(shipped, given, survey, taken, options)
        pixels = _pixels(prepared, survey, labels) if survey.places else []
        if survey.places:
            progress.say(f"{len(survey.places)} places of {len(labels)} classes: {len(pixels)} pixels in the region")
        if product is not None:
            mapped = map_labels(prepared, product, positions, len(survey.places), progress)
            progress.say(f"{len(mapped)} pixels of {product.title}")
            pixels = joined(pixels, mapped, survey.left_out)
        words = model.class_word_prompts(shipped).clone()
        onlooker = Onlooker(prepared, model, words)
        chips: list[Chip] | None = [] if options.full else None
        seen = onlooker.at(pixels, progress, chips)
        kept = [pixels[i] for i in seen.positions]
        if len(pixels) > len(kept):
            survey.left_out["without a clear observation"] += len(pixels) - len(kept)
        asked = pixels
        legend, seen, kept, channels, dropped = _learnable(legend, seen, kept, proposed=given is None)
        xy = np.array([(p.x + 1e7 * p.zone, p.y) for p in kept])
        block_m = block_side(xy, channels, config.tiling.resolution_m)
        gap_m, blocks = min(block_m / 4, MOST_GAP_M), block_ids(xy, block_m)
        similar = {c.name: code for c in legend if (code := similar_code(c.name) or similar_code(c.noun))}
        related = None
        if len(similar) == len(legend):
            related = {k: shipped.codes.index(similar[c.name]) for k, c in enumerate(legend)}
        with progress.waiting(f"leaving out blocks of {block_m:g} m, {len(channels)} pixels"):
            by_people = np.array([pixel.feature < len(survey.places) for pixel in kept])
            validation = validate(
                seen.sources, seen.pixels, channels, len(legend), blocks, xy, gap_m, related, by_people=by_people
            )
            head, temperature = fit_head(seen.sources, channels, len(legend), blocks, xy, gap_m)
        trained, whole = None, None
        if chips is not None:
            from pipeline.adaptation.whole_model import STATE_SUFFIX, Labelled, train_whole

            place = {(pixel.zone, pixel.row, pixel.col): i for i, pixel in enumerate(kept)}
            numbers = [place.get((pixel.zone, pixel.row, pixel.col), -1) for pixel in asked]
            chips = [replace(chip, samples=[numbers[i] for i in chip.samples]) for chip in chips]
            read = [name for name in SENTINEL2_BANDS if name in config.source.bands]
            identity = {"base": checkpoint_fingerprint(folder)}
            parts = (seen.sources, seen.pixels, channels, blocks, xy, gap_m)
            given_ = Labelled(model, legend, words, *parts, chips, read, identity)
            state = options.output.absolute()
            state = state.with_name(f".{state.name}{STATE_SUFFIX}")
            trained, whole = train_whole(given_, _tensors, state, progress)
        region = onlooker.around(DOMAIN_WINDOWS, progress)
        outside = outside_share(seen.sources, blocks, region.sources)
        adaptation = Adaptation(
            output=options.output,
            base=config.model.checkpoint,
            legend=legend,
            validation=validation,
            chosen=head.chosen,
            temperature=temperature if trained is None else trained.config.temperature,
            samples={c.name: int((channels == k).sum()) for k, c in enumerate(legend)},
            left_out=dict(sorted(survey.left_out.items())),
            dropped=dropped,
            similar={name: next(c.noun for c in shipped if c.code == code) for name, code in similar.items()},
            block_m=block_m,
            gap_m=gap_m,
            outside_share=outside,
            other_dates=_other_dates(survey, config),
            problems=tuple(sorted(seen.problems | region.problems)),
            facts={
                "run": config.name,
                "period": [config.start.isoformat(), config.end.isoformat()],
                "bands": list(config.source.bands),
                "points": None if options.points is None else options.points.name,
                "class_field": options.class_field,
                "labels": None if product is None else product.title,
                "labels_licence": None if product is None else product.files[0].licence,
                "labels_pixels": int((~by_people).sum()),
                "scenes": len(prepared.plan.scenes),
            },
            seconds=time.monotonic() - begun,
            whole=whole,
        )
        weights, bias = _tensors(head)
        adapted = trained or adapted_model(model, legend, weights, bias, words, temperature)
        _write(adaptation, options, lambda draft: _write_model(adapted, folder, draft, stored))
    return adaptation


def _write_model(adapted: Any, base: Path, draft: Path, stored: Any) -> None:
    from spex_core.adapting import write_adapted

    write_adapted(adapted, draft, stored)
    inherit_familiarity(base, draft)  # the part that looks at spectra is the base's


def _stored_type(folder: Path) -> Any:
    import torch

    from spex_core import SpexConfig

    stored = SpexConfig.from_pretrained(folder).dtype
    return stored if isinstance(stored, torch.dtype) else getattr(torch, str(stored or "float32"), torch.float32)


def _classes(
    shipped: Legend, given: Legend | None, survey: Survey, taken: dict[int, str], options: AdaptOptions
) -> tuple[Legend, dict[str, int], dict[int, int]]:
    """Legend; class of the survey → position in it; code of the product that is taken → position in it.

    Raises:
        SurveyError: A legend that was given lacks a class of the survey, or has none of the product.
    """
    names = survey.names
    if given is not None:
        labels = {} if options.points is None else matched(given, names, options.points)
        known = {key.casefold(): k for k, entry in enumerate(given) for key in (entry.noun, entry.name)}
        positions = {code: known[name.casefold()] for code, name in taken.items() if name.casefold() in known}
        if not survey.places and not positions:
            raise SurveyError(
                f"legend {given.name!r} has no class called like one of the product's ({', '.join(taken.values())})"
            )
        return given, labels, positions
    if options.points is None:
        own = Legend("worldcover", "Classes of ESA WorldCover", shipped.classes, shipped.nodata)
        return own, {}, {code: k for k, code in enumerate(own.codes)}
    every = sorted({*names, *taken.values()}, key=lambda name: (name.casefold(), name))
    legend = proposed_legend(every, f"Classes of {options.called}")
    labels = matched(legend, every, options.points)
    return legend, {name: labels[name] for name in names}, {code: labels[name] for code, name in taken.items()}


def _pixels(prepared: Prepared, survey: Survey, labels: dict[str, int]) -> list[LabelledPixel]:
    grids = [zone.grid for zone in prepared.plan.zones]
    areas = [prepared.zone_areas[grid.epsg] for grid in grids]
    left_out: Counter[str] = survey.left_out
    pixels = labelled_pixels(survey.places, labels, grids, areas, left_out)
    if not pixels:
        raise SurveyError(
            f"none of the {len(survey.places)} labelled places lies in the run's region "
            f"({prepared.config.region}): do both have the right coordinate system?"
        )
    return pixels


def _learnable(
    legend: Legend, seen: Seen, kept: list[LabelledPixel], *, proposed: bool
) -> tuple[Legend, Seen, list[LabelledPixel], Labels, dict[str, int]]:
    """Leaves out classes with too few pixels, and pixels beyond what is of use.

    Raises:
        SurveyError: Fewer than two classes are left.
    """
    channels = np.array([pixel.label for pixel in kept], np.int64)
    counts = np.bincount(channels, minlength=len(legend))
    good = [k for k in range(len(legend)) if counts[k] >= LEAST_SAMPLES]
    told = {legend.names[k]: int(counts[k]) for k in range(len(legend)) if k not in good}
    if len(good) < 2:
        listed = ", ".join(f"{name!r} {count}" for name, count in zip(legend.names, counts, strict=True))
        raise SurveyError(
            f"a legend takes two classes with {LEAST_SAMPLES} clearly observed pixels each; there are: {listed}"
        )
    chosen = np.flatnonzero(np.isin(channels, good))
    channels = np.searchsorted(good, channels[chosen])
    if len(chosen) > MOST_SAMPLES:
        thin = thinned(channels, MOST_SAMPLES / len(chosen))
        chosen, channels = chosen[thin], channels[thin]
    order = np.argsort([(kept[i].feature) for i in chosen], kind="stable")
    chosen, channels = chosen[order], channels[order]
    classes = tuple(legend.classes[k] for k in good)
    part = Seen(rows(seen.sources, chosen), seen.pixels[chosen], [], seen.problems)
    own = Legend(legend.name, legend.title, classes, legend.nodata)
    return own, part, [kept[i] for i in chosen], channels.astype(np.int64), told


def _other_dates(survey: Survey, config: RunConfig) -> int:
    first, last = config.start.isoformat(), config.end.isoformat()
    return sum(place.date is not None and not first <= place.date <= last for place in survey.places)


def _tensors(head: Head) -> tuple[dict[str, Any], Any]:
    import torch

    def tensor(values: npt.NDArray[np.float64]) -> Any:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    return {name: tensor(weight) for name, weight in head.weights.items()}, tensor(head.bias)


# --- the folder -----------------------------------------------------------------------------------------------------


def _check_output(options: AdaptOptions) -> None:
    folder = options.output
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise OutputError(f"{folder} is no folder of ours: give another --output")
        there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        if there and not (options.replace and FIGURES_FILE in there and LEGEND_FILE in there):
            mend = (
                "--replace replaces an adapted checkpoint" if FIGURES_FILE in there else "it is no adapted checkpoint"
            )
            raise OutputError(f"{folder} is not empty ({', '.join(there[:5])}): {mend}; give another --output")
        make_folder(folder.absolute().parent)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; give another --output") from error


def _write(adaptation: Adaptation, options: AdaptOptions, write_model: Any) -> None:
    """Writes all files into a draft folder, and then gives it its name: what has the name is complete."""
    folder = options.output.absolute()
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=DRAFT_MARK, dir=folder.parent))
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; give another --output") from error
    try:
        draft.chmod(0o755)
        write_model(draft)
        legend = adaptation.legend.to_dict()
        (draft / LEGEND_FILE).write_text(yaml.safe_dump(legend, sort_keys=False, allow_unicode=True), encoding="utf-8")
        figures = {name: value for name, value in adaptation.to_dict().items() if name not in ("output", "base")}
        figures["base"] = Path(adaptation.base).name
        text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False)
        (draft / FIGURES_FILE).write_text(text + "\n", encoding="utf-8")
        (draft / CARD_FILE).write_text(card_text(adaptation), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        put_in_place(draft, folder)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; give another --output") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
