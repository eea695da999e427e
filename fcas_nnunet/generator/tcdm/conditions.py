"""Build TCDM's raw condition: reference mask, template mask, template image (paper §3.1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from fcas_nnunet.case import NUM_BITS, NUM_CODES
from fcas_nnunet.config.generator import CONDITION_CHANNELS
from fcas_nnunet.generator.confidence.error_model import means_by_code

#: 0 HU in the range [-1000, 1000].
SOFT_TISSUE = 0.5


def build_condition(
    reference_codes: torch.Tensor,
    template_codes: torch.Tensor,
    template_image: torch.Tensor,
    guess_labels: int = 0,
    usual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Build c_raw = M'_A © M'_B © I_B, and, on request, a first guess at the image.

    Args:
        reference_codes: Mask to draw, uint8 [B, 1, D, H, W].
        template_codes: Template's mask with its surroundings, uint8 [B, 1, D, H, W].
        template_image: Template's image, [B, 1, D, H, W] in [0, 1].
        guess_labels: Number of labels for `transfer_template`, whose guess is appended; 0 = no guess.
        usual: Intensities of structures that a template lacks, from `usual_intensities`.

    Returns:
        float32 [B, 17, D, H, W], or 18 channels with the guess.

    Raises:
        ValueError: If the shapes differ.
    """
    if not reference_codes.shape == template_codes.shape == template_image.shape:
        raise ValueError(
            f"condition: reference mask, template mask and template image must have one shape, got "
            f"{tuple(reference_codes.shape)}, {tuple(template_codes.shape)}, {tuple(template_image.shape)}."
        )
    # `cat` converts bytes to floats: on a CPU, doing so before costs a tenth of a training step
    parts = [_bits(reference_codes), _bits(template_codes), template_image.float()]
    if guess_labels:
        parts.append(transfer_template(reference_codes, template_codes, template_image, guess_labels, usual))
    condition = torch.cat(parts, dim=1)
    assert condition.shape[1] == CONDITION_CHANNELS + (guess_labels > 0), "8 + 8 + 1, and 1 for the guess"
    return condition


def transfer_template(
    reference_codes: torch.Tensor,
    template_codes: torch.Tensor,
    template_image: torch.Tensor,
    num_labels: int,
    usual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Make a first guess at the drawn image: the template, its structures replaced by the reference's.

    Every structure of the reference gets the template's mean intensity of that structure, as semantic image synthesis
    transfers appearance (SEAN, arXiv 1911.12861), or its usual intensity where the template lacks it; without either,
    and elsewhere, the template stays, its structures filled from around. A convolutional denoiser
    cannot compute such means in a short training.

    Args and shapes are as in `build_condition`; codes 1 … num_labels are labels, those above surroundings.
    """
    image = template_image.float()
    structures = reference_codes > 0
    surroundings = _filled(image, (template_codes == 0) | (template_codes > num_labels))
    means, known = means_by_code(image, _bins(template_codes), len(image) * NUM_CODES)
    if usual is not None:
        usual = usual.repeat(len(image))
        means, known = torch.where(known, means, usual), known | ~usual.isnan()
    bins = _bins(reference_codes)
    return torch.where(structures & known[bins], means[bins], surroundings)


def usual_intensities(means_hu: Mapping[int, float], intensity_range_hu: Sequence[float]) -> torch.Tensor:
    """Map the structures' mean HU over the scans to intensities, float32 [256] in [0, 1]; NaN for other codes."""
    usual = torch.full((NUM_CODES,), torch.nan)
    low, high = intensity_range_hu
    for label, mean_hu in means_hu.items():
        usual[label] = min(max((mean_hu - low) / (high - low), 0.0), 1.0)
    return usual


def _bins(codes: torch.Tensor) -> torch.Tensor:
    """Codes with an offset for each volume of the batch; int64."""
    return codes + torch.arange(len(codes), device=codes.device).view(-1, 1, 1, 1, 1) * NUM_CODES


def _filled(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Fill an image's invalid voxels from around, coarse to fine; soft tissue where nothing is valid."""
    if min(image.shape[2:]) < 2:
        return torch.where(valid, image, SOFT_TISSUE)
    weight = valid.float()
    coarse_weight = F.avg_pool3d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool3d(image * weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = _filled(coarse / coarse_weight.clamp(min=1e-6), coarse_weight > 0)
    return torch.where(valid, image, F.interpolate(coarse, image.shape[2:], mode="trilinear"))


def _bits(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 1, D, H, W] => uint8 [B, 8, D, H, W] of 0 and 1."""
    shifts = torch.arange(NUM_BITS, dtype=torch.uint8, device=codes.device).view(1, NUM_BITS, 1, 1, 1)
    return (codes >> shifts) & 1
