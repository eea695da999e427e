"""Draw the scan of a mask with a trained generator, and the confidence of each voxel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from fcas_nnunet.case import NUM_CODES, Case
from fcas_nnunet.config.generator import ConfidenceConfig
from fcas_nnunet.config.options import ConfidenceNorm
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.checkpoint import Generator, GeneratorRecord
from fcas_nnunet.generator.confidence.ssv import confidence_map
from fcas_nnunet.generator.data.grid import WorkingGrid, label_codes, to_standard_range, to_unit_range
from fcas_nnunet.generator.mgm.deformation import IDENTITY, Deformation
from fcas_nnunet.generator.mgm.resampling import deform_image
from fcas_nnunet.generator.sources.registered import MIRRORED, OWN, Brought, bring, mend, out_of_place
from fcas_nnunet.generator.sources.registration import Registration, register
from fcas_nnunet.generator.tcdm.conditions import build_condition, guess_of, origin_of, usual_intensities
from fcas_nnunet.generator.tcdm.sampling import synthesise
from fcas_nnunet.labels.anatomy import label_roles

#: Near to where a template was mended, what is drawn takes its place; so far from there, its detail is all there.
_BLENDED_MM = 1.0, 4.0


@dataclass(frozen=True)
class Drawing:
    """A drawn scan, on its mask's voxel grid; all float32 [D, H, W], but for the image.

    Attributes:
        image: Standard units, within the generator's range, [C, D, H, W].
        confidence: Confidence in [0, 1].
        spread: Standard deviation of SSV's intermediate images; None where none were decoded.
        expected_error: Expected absolute error after matching contrast; None without calibration.
    """

    image: np.ndarray
    confidence: np.ndarray
    spread: np.ndarray | None
    expected_error: np.ndarray | None


@dataclass(frozen=True)
class Registered:
    """A registered template on the voxel grid of the mask to draw.

    Attributes:
        brought: The template there.
        own: The reference's scan under the mask's deformation, standard units, float32 [C, D, H, W]: for what lies
            beyond the template.
    """

    brought: Brought
    own: np.ndarray


@dataclass(frozen=True)
class GridDrawing:
    """As `Drawing`, on the working grid and on the device that drew it; `codes` is the mask, uint8 [D, H, W]."""

    grid: WorkingGrid
    image: torch.Tensor
    codes: torch.Tensor
    spread: torch.Tensor | None


def draw_image(
    generator: Generator,
    reference: Case,
    template: Case | Registered,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    with_spread: bool = False,
) -> Drawing:
    """Draw the scan of a mask, guided by a template.

    Args:
        generator: Trained generator on `device`; its configuration determines how confidence is computed.
        reference: Case whose mask is drawn, on its voxel grid; with surroundings where the generator draws them.
        template: Case with image, and with surroundings where the generator was trained with them; as `guide` gives it.
        seed: Seed of the noise.
        device: Device to compute on.
        precision: Precision of the autocast.
        with_spread: Decode the intermediate images even where the confidence does not need them.

    Raises:
        InputError: If the generator cannot give the confidence that its configuration requests, or if it draws
            surroundings and the reference has none.
    """
    record = generator.record
    config = record.config.confidence.for_generator(generator.calibrated is not None)
    ssv = config if config.needs_spread or with_spread else None
    drawn = draw_on_grid(generator, reference, template, seed, device, precision, ssv)
    confidence, expected = drawing_confidence(generator, drawn, config)
    image = drawn.grid.image_to_native(drawn.image)
    return Drawing(
        np.clip(image, *record.config.grid.intensity_range),
        drawn.grid.confidence_to_native(torch.from_numpy(confidence).to(device)),
        None if drawn.spread is None else drawn.grid.confidence_to_native(drawn.spread),
        None if expected is None else drawn.grid.confidence_to_native(torch.from_numpy(expected).to(device)),
    )


def guide(
    record: GeneratorRecord,
    source: Case,
    template: Case,
    deformation: Deformation = IDENTITY,
    registration: Registration | None = None,
) -> Case | Registered:
    """The template as a generator takes it to draw a mask: as it is, or registered to the mask's reference.

    Args:
        record: Record of the generator.
        source: Reference with its scan.
        template: Case with image.
        deformation: What made the mask of the reference's.
        registration: From the reference to the template; None = it is found.
    """
    if not record.tcdm.registers:
        return template
    num_labels = max(record.labels.values())
    if registration is None:
        registration = register(source, template, num_labels)
    brought = bring(source, deformation, template, registration, num_labels)
    return Registered(brought, deform_image(source.standard_image, deformation, source.spacing_mm))


def draw_on_grid(
    generator: Generator,
    reference: Case,
    template: Case | Registered,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    ssv: ConfidenceConfig | None,
) -> GridDrawing:
    """Draw the scan of a mask on its working grid, without confidence.

    Args:
        generator: Trained generator on `device`.
        reference: Case whose mask is drawn; with surroundings where the generator draws them.
        template: Case with image, and with surroundings where the generator was trained with them; as `guide` gives it.
        seed: Seed of the noise.
        device: Device to compute on.
        precision: Precision of the autocast.
        ssv: Which intermediate images are decoded; None = none.
    """
    record = generator.record
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    with torch.inference_mode(), torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        condition, codes = condition_on_grid(record, reference, template, grid, device)
        synthesis = synthesise(
            generator.tcdm, generator.autoencoder, record.latent_scale, generator.tcdm.embed_condition(condition),
            codes.numpy() > 0, record.config.sampling, ssv, torch.Generator().manual_seed(seed),
            guess_of(condition, record.tcdm),
        )  # fmt: skip
        image = with_detail(generator, synthesis.image.float(), condition)
    low, high = record.config.grid.intensity_range
    spread = None if synthesis.variance is None else synthesis.variance.float().sqrt() * (high - low)
    return GridDrawing(grid, to_standard_range(image, (low, high)), codes.to(device), spread)


def with_detail(generator: Generator, image: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Add to a drawn image what the autoencoder loses of its registered template, where that is in place.

    A latent holds a sixteenth of a scan's numbers, so that a drawing is smoother than the template it may keep.

    Args:
        generator: Trained generator.
        image: Drawn image, [C, D, H, W] in [0, 1].
        condition: Raw condition that it was drawn under.

    Returns:
        As the image, not clipped; the image itself where no template is registered, or none is guessed from.
    """
    record, guess = generator.record, guess_of(condition, generator.record.tcdm)
    if guess is None or not record.tcdm.registers:
        return image
    latents, _ = generator.autoencoder.encode(guess, SLAB_ELEMENTS)
    lost = guess[0] - generator.autoencoder.decode(latents, SLAB_ELEMENTS)[0]
    origin = (OWN * origin_of(condition, record.tcdm)[0, 0]).round().cpu().numpy()
    seam = (origin == OWN) & binary_dilation(origin != OWN)
    kept = 1 - out_of_place((origin == MIRRORED) | seam, record.working_spacing_mm, *_BLENDED_MM)
    return image + torch.from_numpy(kept).to(image.device) * lost


def drawing_confidence(
    generator: Generator, drawn: GridDrawing, config: ConfidenceConfig
) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute a drawing's confidence, and its expected error where that is calibrated; float32 [D, H, W].

    `config` is filled in (`for_generator`); where it needs SSV, the drawing has a spread.
    """
    structures = drawn.codes.cpu().numpy() > 0
    if config.norm != ConfidenceNorm.CALIBRATED:
        assert drawn.spread is not None, "SSV has decoded the intermediate images"
        low, high = generator.record.config.grid.intensity_range
        variance = (drawn.spread.cpu().numpy() / (high - low)) ** 2
        return confidence_map(variance, structures, config), None
    calibrated = generator.calibrated
    assert calibrated is not None and config.estimator is not None, "filled in for this generator"
    doubt = drawn.spread
    if not config.needs_spread:
        doubt = calibrated.error_model.expected_error(drawn.image, drawn.codes)
    assert doubt is not None, "SSV has decoded the intermediate images"
    expected = calibrated.calibration.expected_error(config.estimator, doubt.cpu().numpy(), structures)
    return calibrated.calibration.to_confidence(expected, structures, config.own_scale_outside), expected


def prior_image(generator: Generator, reference: Case, template: Case | Registered, device: torch.device) -> np.ndarray:
    """Bring a template onto a mask without drawing: the first guess that the denoiser of a generator starts from.

    Args are as in `draw_image`; the generator's denoiser is given a prior.

    Returns:
        Standard units within the generator's range, float32 [C, D, H, W] on the reference's voxel grid.

    Raises:
        InputError: As `condition_on_grid`.
    """
    record = generator.record
    grid = WorkingGrid.of_case(reference, record.working_spacing_mm, record.tcdm)
    condition, _ = condition_on_grid(record, reference, template, grid, device)
    guess = guess_of(condition, record.tcdm)
    assert guess is not None, "the denoiser is given one"
    intensity_range = record.config.grid.intensity_range
    return np.clip(grid.image_to_native(to_standard_range(guess[0].float(), intensity_range)), *intensity_range)


def condition_on_grid(
    record: GeneratorRecord, reference: Case, template: Case | Registered, grid: WorkingGrid, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Build the condition on the reference's working grid, and return it with the reference's labels there.

    A template of another size is laid over the reference's grid from the centre, cropped or continued by its border.
    The masks go to the device as bytes and become channels there.

    Returns:
        Result of `build_condition`, and the labels alone, uint8 [D, H, W] on the CPU.

    Raises:
        InputError: If the generator draws surroundings and the reference has none.
    """
    num_labels = max(record.labels.values())
    thin = label_roles(record.labels, record.roles).thin
    codes = grid.labels_to_working(reference.mask, thin)
    to_draw = codes
    if record.draws_surroundings:
        if reference.surroundings is None:
            raise InputError(
                f"{reference.case_id}: reference must have surroundings, since the generator was trained with "
                "tcdm.pairs.reference_surroundings, got none. Add its surroundingsTr, or train without that setting."
            )
        to_draw = grid.labels_to_working(label_codes(reference, num_labels)[1], thin)
        codes = torch.where(to_draw <= num_labels, to_draw, 0)
    intensity_range, guess_labels = record.config.grid.intensity_range, num_labels if record.tcdm.prior else 0
    if isinstance(template, Registered):
        last_code = NUM_CODES - 1 if record.draws_surroundings else num_labels
        seen = _seen_on_grid(template, to_draw.numpy(), last_code, grid, thin, intensity_range, device)
        theirs, image, guess, origin = (part[None].to(device) for part in seen)
        condition = build_condition(
            to_draw[None, None].to(device), theirs, image, guess_labels, registered=(guess, origin)
        )
        return condition, codes
    assert not record.tcdm.registers, "`guide` has registered it"
    template_grid = WorkingGrid.of_case(template, record.working_spacing_mm, record.tcdm)
    template_codes = template_grid.labels_to_working(label_codes(template, num_labels)[1], thin)
    template_image = to_unit_range(template_grid.image_to_working(template.standard_image, device), intensity_range)
    condition = build_condition(
        to_draw[None, None].to(device),
        _centred(template_codes, template_grid.resampled_shape, grid)[None, None].to(device),
        _centred(template_image, template_grid.resampled_shape, grid)[None],
        guess_labels,
        usual_intensities(record.label_means, intensity_range, record.tcdm.image_channels).to(device),
    )
    return condition, codes


def _seen_on_grid(
    template: Registered,
    codes: np.ndarray,
    last_code: int,
    grid: WorkingGrid,
    thin: Collection[int],
    intensity_range: Sequence[float],
    device: torch.device,
) -> tuple[torch.Tensor, ...]:
    """What a mask's drawing sees of a registered template, as `read_template`; `codes` is the mask there."""
    brought = template.brought
    theirs = grid.labels_to_working(brought.codes, thin)
    inside = grid.labels_to_working(brought.inside.astype(np.uint8)).numpy() > 0
    image, own = (
        to_unit_range(grid.image_to_working(of, device), intensity_range).cpu() for of in (brought.image, template.own)
    )
    mended = mend(Brought(image.numpy(), theirs.numpy(), inside), codes, own.numpy(), last_code)
    guess = torch.from_numpy(mended.image).clamp(0, 1)
    return theirs[None], image, guess, torch.from_numpy(mended.origin)[None]


def _centred(volume: torch.Tensor, content: tuple[int, int, int], grid: WorkingGrid) -> torch.Tensor:
    """Lay a volume's content, [..., D, H, W], over another working grid, centre on centre; its border continues."""
    for axis, (length, wanted, size) in enumerate(zip(content, grid.resampled_shape, grid.shape, strict=True), -3):
        index = (torch.arange(size, device=volume.device) + (length - wanted) // 2).clamp(0, length - 1)
        volume = volume.index_select(axis, index)
    return volume
