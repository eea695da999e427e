"""Synthetic cases: which there shall be, and making one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, MaskConfig
from fcas_nnunet.config.options import ConfidenceNorm, ReferenceSource
from fcas_nnunet.generator.checkpoint import Generator, case_sha256
from fcas_nnunet.generator.confidence.ssv import confidence_map
from fcas_nnunet.generator.data.grid import WorkingGrid, label_codes, to_hu, to_unit_range
from fcas_nnunet.generator.mgm.masks import NoMaskError, generate_mask
from fcas_nnunet.generator.mgm.quality import Bounds
from fcas_nnunet.generator.mgm.recipe import Recipe, SourceMask
from fcas_nnunet.generator.mgm.resampling import deform_labels
from fcas_nnunet.generator.tcdm.conditions import build_condition, usual_intensities
from fcas_nnunet.generator.tcdm.sampling import synthesise
from fcas_nnunet.labels.anatomy import LabelRoles, label_roles
from fcas_nnunet.seeds import derive_seed

LoadCase = Callable[[str], Case]


@dataclass(frozen=True)
class Drawing:
    """A drawn scan, on its mask's voxel grid; all float32 [D, H, W].

    Attributes:
        image: HU, within the generator's range.
        confidence: in [0, 1].
        spread_hu: standard deviation of the intermediate images that SSV compared; None where none were.
        expected_error_hu: absolute error after matching contrast that is expected; None without calibration.
    """

    image: np.ndarray
    confidence: np.ndarray
    spread_hu: np.ndarray | None
    expected_error_hu: np.ndarray | None


@dataclass(frozen=True)
class GridDrawing:
    """A drawn scan on its working grid, all on the device that drew it.

    Attributes:
        grid: where it lies.
        image_hu: float32 [D, H, W], within the generator's range.
        codes: the mask it was drawn from, uint8 [D, H, W].
        spread_hu: float32 [D, H, W], as in `Drawing`.
    """

    grid: WorkingGrid
    image_hu: torch.Tensor
    codes: torch.Tensor
    spread_hu: torch.Tensor | None


@dataclass(frozen=True)
class CasePlan:
    """One synthetic case to be made; depends on the run's seed and the case's number alone.

    Attributes:
        case_id: of the synthetic case.
        seed: from which its deformation and its noise derive.
        reference: the case whose mask is drawn.
        template: the case whose image and mask guide the drawing.
        masks: `given`, or `mgm`: the reference's mask is deformed first.
    """

    case_id: str
    seed: int
    reference: str
    template: str
    masks: ReferenceSource

    def to_record(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return asdict(self) | {"masks": str(self.masks)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> CasePlan:
        """The plan in a manifest record."""
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        return cls(**fields | {"masks": ReferenceSource(record["masks"])})


def plan_cases(
    num_cases: int,
    references: Sequence[str],
    templates: Sequence[str],
    masks: ReferenceSource,
    seed: int,
    labels_of: Mapping[str, Collection[int]] | None = None,
) -> list[CasePlan]:
    """Plan synthetic cases: references in turn, in a random order each round; a random template for each.

    The plan of fewer cases is the beginning of the plan of more.

    Args:
        num_cases: how many.
        references: cases whose masks are drawn.
        templates: cases that guide the drawing: training cases.
        masks: `given`: masks as they are, a template never its own; `mgm`: deformed; `both`: as they are once, then
            deformed.
        seed: of the run.
        labels_of: case → ids of the structures that it has; of the templates, those are taken that lack fewest of the
            reference's. None = all have all.
    """
    plans = []
    for number in range(num_cases):
        turn, place = divmod(number, len(references))
        order = np.random.default_rng(derive_seed(seed, "references", turn)).permutation(len(references))
        reference = references[int(order[place])]
        given = masks == ReferenceSource.GIVEN or (masks == ReferenceSource.BOTH and turn == 0)
        others = ([t for t in templates if t != reference] if given else []) or list(templates)
        if labels_of is not None:
            lacking = [len(set(labels_of[reference]).difference(labels_of[t])) for t in others]
            others = [t for t, count in zip(others, lacking, strict=True) if count == min(lacking)]
        case_seed = derive_seed(seed, "case", number)
        rng = np.random.default_rng(derive_seed(case_seed, "template"))
        template = others[int(rng.integers(len(others)))]
        source = ReferenceSource.GIVEN if given else ReferenceSource.MGM
        plans.append(CasePlan(f"fcas_{number:05d}", case_seed, reference, template, source))
    return plans


def make_case(
    generator: Generator,
    plan: CasePlan,
    load_case: LoadCase,
    device: torch.device,
    precision: torch.dtype,
    bounds_ml: Bounds | None = None,
) -> tuple[Case, dict[str, Any]]:
    """Make a synthetic case on its reference's voxel grid.

    Args:
        generator: trained, on `device`; its configuration holds MGM's ranges.
        plan: what to make.
        load_case: reads a reference or template by id.
        device: where to run.
        precision: of the autocast.
        bounds_ml: believable volumes of new masks.

    Returns:
        The case with image (HU), the mask it was drawn from and its confidence; and what the manifest keeps of it.

    Raises:
        NoMaskError: when no acceptable mask could be drawn; names the reference.
    """
    config = generator.record.config
    source = load_case(plan.reference)
    roles = label_roles(generator.record.labels, generator.record.roles)
    mask, mask_record = reference_mask(plan, source, config.masks, roles, bounds_ml)
    return drawn_case(generator, plan, source, mask, mask_record, load_case, device, precision)


def drawn_case(
    generator: Generator,
    plan: CasePlan,
    source: Case,
    mask: np.ndarray,
    mask_record: Mapping[str, Any],
    load_case: LoadCase,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[Case, dict[str, Any]]:
    """The case of a mask, and what the manifest keeps of it.

    Args:
        generator: trained, on `device`.
        plan: of the case.
        source: the case that the mask is of, or was made from.
        mask: label ids [D, H, W], on the source's voxel grid.
        mask_record: what `reference_mask` said of it.
        load_case: reads the template by id.
        device: where to run.
        precision: of the autocast.
    """
    record = generator.record
    template = source if plan.template == plan.reference else load_case(plan.template)
    around = carried_surroundings(source, mask_record) if record.draws_surroundings else None
    reference = Case(plan.case_id, None, mask, source.affine, around)
    drawing = draw_image(generator, reference, template, derive_seed(plan.seed, "noise"), device, precision)
    image = np.rint(drawing.image).astype(np.int16)
    case = replace(reference, image=image, confidence=drawing.confidence, surroundings=None)
    inside = drawing.confidence[mask > 0]
    return case, {
        **plan.to_record(),
        "mgm": mask_record,
        "parents_sha256": {"reference": case_sha256(source), "template": case_sha256(template)},
        "sampling": to_dict(record.config.sampling.for_model(record.tcdm.prediction_type)),
        "confidence": to_dict(record.config.confidence.for_generator(generator.calibrated is not None)),
        "mean_confidence_in_structures": round(float(inside.mean()), 6),
        "std_confidence_in_structures": round(float(inside.std()), 6),
        "expected_error_hu": _error_record(generator, drawing, mask),
    }


def _error_record(generator: Generator, drawing: Drawing, mask: np.ndarray) -> dict[str, float] | None:
    """What the confidence stands for inside the structures, in HU; None where it is on no such scale."""
    if drawing.expected_error_hu is None:
        return None
    assert generator.calibrated is not None, "it said what to expect"
    scale = generator.calibrated.calibration.inside
    mean = float(drawing.expected_error_hu[mask > 0].mean())
    return {
        "mean": round(mean, 3),
        "at_confidence_1": round(scale.certain_hu, 3),
        "at_confidence_0": round(scale.uncertain_hu, 3),
    }


def draw_image(
    generator: Generator,
    reference: Case,
    template: Case,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    with_spread: bool = False,
) -> Drawing:
    """Draw the scan of a mask, guided by a template.

    Args:
        generator: trained, on `device`; its configuration says where confidence comes from.
        reference: its mask is drawn, on its voxel grid; with surroundings where the generator draws them.
        template: with image, and surroundings where the generator knows them.
        seed: of the noise.
        device: where to run.
        precision: of the autocast.
        with_spread: look at the intermediate images even where the confidence needs none.

    Raises:
        ValueError: when the generator cannot give the confidence that its configuration asks for.
    """
    record = generator.record
    config = record.config.confidence.for_generator(generator.calibrated is not None)
    ssv = config if config.needs_spread or with_spread else None
    drawn = draw_on_grid(generator, reference, template, seed, device, precision, ssv)
    confidence, expected = drawing_confidence(generator, drawn, config)
    image = drawn.grid.image_to_native(drawn.image_hu)
    return Drawing(
        np.clip(image, *record.config.grid.intensity_range_hu),
        drawn.grid.confidence_to_native(torch.from_numpy(confidence)),
        None if drawn.spread_hu is None else drawn.grid.confidence_to_native(drawn.spread_hu),
        None if expected is None else drawn.grid.confidence_to_native(torch.from_numpy(expected)),
    )


def draw_on_grid(
    generator: Generator,
    reference: Case,
    template: Case,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    ssv: ConfidenceConfig | None,
) -> GridDrawing:
    """Draw the scan of a mask on its working grid.

    Args:
        generator: trained, on `device`.
        reference: its mask is drawn; with surroundings where the generator draws them.
        template: with image, and surroundings where the generator knows them.
        seed: of the noise.
        device: where to run.
        precision: of the autocast.
        ssv: which intermediate images are looked at; None = none.
    """
    record = generator.record
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    with torch.inference_mode(), torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        embedded, codes = embedded_condition(generator, reference, template, grid, device)
        synthesis = synthesise(
            generator.tcdm, generator.autoencoder, record.latent_scale, embedded, codes.numpy() > 0,
            record.config.sampling, ssv, torch.Generator().manual_seed(seed),
        )  # fmt: skip
    low, high = record.config.grid.intensity_range_hu
    spread = None if synthesis.variance is None else synthesis.variance.float().sqrt() * (high - low)
    return GridDrawing(grid, to_hu(synthesis.image.float(), (low, high)), codes.to(device), spread)


def drawing_confidence(
    generator: Generator, drawn: GridDrawing, config: ConfidenceConfig
) -> tuple[np.ndarray, np.ndarray | None]:
    """Confidence of a drawing on its working grid, and what it says of the error.

    Args:
        generator: that drew it.
        drawn: with spread, where SSV is asked for.
        config: filled in.

    Returns:
        Confidence in [0, 1], and expected error in HU where it is calibrated; float32 [D, H, W].
    """
    structures = drawn.codes.cpu().numpy() > 0
    if config.norm != ConfidenceNorm.CALIBRATED:
        assert drawn.spread_hu is not None, "SSV looked at the intermediate images"
        low, high = generator.record.config.grid.intensity_range_hu
        variance = (drawn.spread_hu.cpu().numpy() / (high - low)) ** 2
        return confidence_map(variance, structures, config), None
    calibrated = generator.calibrated
    assert calibrated is not None and config.estimator is not None, "filled in for this generator"
    if config.needs_spread:
        assert drawn.spread_hu is not None, "SSV looked at the intermediate images"
        doubt = drawn.spread_hu
    else:
        doubt = calibrated.error_model.expected_error(drawn.image_hu, drawn.codes)
    expected = calibrated.calibration.expected_error(config.estimator, doubt.cpu().numpy(), structures)
    return calibrated.calibration.to_confidence(expected, structures, config.own_scale_outside), expected


def reference_mask(
    plan: CasePlan,
    reference: Case,
    config: MaskConfig,
    roles: LabelRoles,
    bounds_ml: Bounds | None = None,
    source: SourceMask | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask to draw.

    Args:
        plan: whose seed decides it.
        reference: the case it is made from.
        config: MGM's ranges.
        roles: of the labels.
        bounds_ml: believable volumes.
        source: of the reference's mask, when many are made from it.

    Returns:
        uint8 [D, H, W], and what the manifest keeps of how it was made; nothing for a given mask.
    """
    if plan.masks == ReferenceSource.GIVEN:
        return reference.mask, {}
    try:
        made = generate_mask(
            reference.mask, reference.spacing_mm, config, derive_seed(plan.seed, "mask"), roles,
            bounds_ml=bounds_ml, source=source,
        )  # fmt: skip
    except NoMaskError as error:
        raise NoMaskError(f"{plan.reference}: {error}") from error
    return made.mask, made.recipe.to_dict() | {"rejections": made.rejections}


def carried_surroundings(reference: Case, mask_record: Mapping[str, Any]) -> np.ndarray | None:
    """A reference's surroundings under the deformation of its new mask, as training deforms both.

    Args:
        reference: the case the mask was made from.
        mask_record: what `reference_mask` said of it; empty for a given mask.

    Returns:
        uint8 [D, H, W]; None where the case has none.
    """
    if reference.surroundings is None or not mask_record:
        return reference.surroundings
    return deform_labels(reference.surroundings, Recipe.from_dict(mask_record).deformation, reference.spacing_mm)


def embedded_condition(
    generator: Generator, reference: Case, template: Case, grid: WorkingGrid, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedded condition on the reference's working grid, and its mask there.

    A template of another size is laid over the reference's grid from the centre, cropped or continued by its border.
    The masks travel as bytes and become channels on the device.

    Args:
        generator: trained, on `device`.
        reference: its mask is drawn; with surroundings where the generator draws them.
        template: with image, and surroundings where the generator knows them.
        grid: the reference's working grid.
        device: where to run.

    Returns:
        What `TCDM.embed_condition` gives, [1, E, D/4, H/4, W/4], and the labels alone, uint8 [D, H, W] on the CPU, both
        on the working grid.

    Raises:
        ValueError: when the generator draws surroundings and the reference has none.
    """
    record = generator.record
    assert template.image is not None, "a template has an image"
    num_labels = max(record.labels.values())
    thin = label_roles(record.labels, record.roles).thin
    codes = grid.labels_to_working(reference.mask, thin)
    to_draw = codes
    if record.draws_surroundings:
        if reference.surroundings is None:
            raise ValueError(
                f"{reference.case_id}: reference must have surroundings, since the generator was trained with "
                "tcdm.pairs.reference_surroundings, got none. Add its surroundingsTr, or train without that setting."
            )
        to_draw = grid.labels_to_working(label_codes(reference, num_labels)[1], thin)
        codes = torch.where(to_draw <= num_labels, to_draw, 0)
    template_grid = WorkingGrid.of_case(template, record.working_spacing_mm, record.tcdm)
    template_codes = template_grid.labels_to_working(label_codes(template, num_labels)[1], thin)
    template_image = to_unit_range(
        template_grid.image_to_working(template.image, device), record.config.grid.intensity_range_hu
    )
    condition = build_condition(
        to_draw[None, None].to(device),
        _centred(template_codes, template_grid.resampled_shape, grid)[None, None].to(device),
        _centred(template_image, template_grid.resampled_shape, grid)[None, None],
        guess_labels=num_labels if record.tcdm.prior else 0,
        usual=usual_intensities(record.label_means_hu, record.config.grid.intensity_range_hu).to(device),
    )
    return generator.tcdm.embed_condition(condition), codes


def _centred(volume: torch.Tensor, content: tuple[int, int, int], grid: WorkingGrid) -> torch.Tensor:
    """Lay a volume's content over another working grid, centre on centre; its border continues outside."""
    for axis, (own, wanted, size) in enumerate(zip(content, grid.resampled_shape, grid.shape, strict=True)):
        index = (torch.arange(size, device=volume.device) + (own - wanted) // 2).clamp(0, own - 1)
        volume = volume.index_select(axis, index)
    return volume
