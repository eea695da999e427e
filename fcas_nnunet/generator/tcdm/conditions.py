"""Build TCDM's raw condition: reference mask, template mask, template image (paper §3.1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from fcas_nnunet.case import NUM_BITS, NUM_CODES
from fcas_nnunet.config.generator import MASK_CHANNELS, TCDMConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.confidence.error_model import means_by_code
from fcas_nnunet.generator.sources.registered import OWN

#: 0 standard units in the range [-1000, 1000].
SOFT_TISSUE = 0.5


def build_condition(
    reference_codes: torch.Tensor,
    template_codes: torch.Tensor,
    template_image: torch.Tensor,
    guess_labels: int = 0,
    usual: torch.Tensor | None = None,
    registered: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Build c_raw = M'_A © M'_B © I_B, and, on request, a first guess at the image.

    Args:
        reference_codes: Mask to draw, uint8 [B, 1, D, H, W].
        template_codes: Template's mask with its surroundings, uint8 [B, 1, D, H, W].
        template_image: Template's image, [B, C, D, H, W] in [0, 1].
        guess_labels: Number of labels for `transfer_template`, whose guess is appended; 0 = no guess.
        usual: Intensities of structures that a template lacks, [C, 256] from `usual_intensities`.
        registered: Of a registered template, the guess at the image instead, [B, C, D, H, W] in [0, 1], and its origin
            (`registered.Mended`), uint8 [B, 1, D, H, W], which becomes a channel.

    Returns:
        float32 [B, 16 + C, D, H, W]; one channel more with a registered template; C more, the last ones, with a guess.

    Raises:
        InputError: If the shapes differ.
    """
    shape = (len(template_image), 1, *template_image.shape[2:])
    if not reference_codes.shape == template_codes.shape == shape:
        raise InputError(
            f"condition: reference mask, template mask and template image must have one size, got "
            f"{tuple(reference_codes.shape)}, {tuple(template_codes.shape)}, {tuple(template_image.shape)}."
        )
    # `cat` converts bytes to floats: on a CPU, doing so before costs a tenth of a training step
    parts = [_bits(reference_codes), _bits(template_codes), template_image.float()]
    if registered is not None:
        guess, origin = registered
        parts += [origin.float() / OWN, guess.float()] if guess_labels else [origin.float() / OWN]
    elif guess_labels:
        parts.append(transfer_template(reference_codes, template_codes, template_image, guess_labels, usual))
    condition = torch.cat(parts, dim=1)
    images = template_image.shape[1] * (1 + (guess_labels > 0)) + (registered is not None)
    assert condition.shape[1] == MASK_CHANNELS + images, "8 + 8, the image, its origin, and the guess at it"
    return condition


def guess_of(condition: torch.Tensor, config: TCDMConfig) -> torch.Tensor | None:
    """The first guess at the image within a raw condition, [B, C, D, H, W]; None for a model without a prior."""
    return condition[:, -config.image_channels :] if config.prior else None


def origin_of(condition: torch.Tensor, config: TCDMConfig) -> torch.Tensor:
    """Where the guess of a registered template is from, over `OWN`, within a raw condition, [B, 1, D, H, W]."""
    return condition[:, MASK_CHANNELS + config.image_channels, None]


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
    image, num_channels = template_image.float(), template_image.shape[1]
    structures = reference_codes > 0
    surroundings = _filled(image, (template_codes == 0) | (template_codes > num_labels))
    means, known = means_by_code(image, _bins(template_codes, num_channels), len(image) * num_channels * NUM_CODES)
    if usual is not None:
        usual = usual.flatten().repeat(len(image))
        means, known = torch.where(known, means, usual), known | ~usual.isnan()
    bins = _bins(reference_codes, num_channels)
    return torch.where(structures & known[bins], means[bins], surroundings)


def usual_intensities(
    label_means: Mapping[int, Sequence[float]], intensity_range: Sequence[float], num_channels: int = 1
) -> torch.Tensor:
    """Map the structures' means over the scans to intensities.

    Args:
        label_means: Label id → its mean in each channel.
        intensity_range: Standard units of 0 and of 1.
        num_channels: C of the scans.

    Returns:
        float32 [C, 256] in [0, 1]; NaN for codes without a mean.
    """
    usual = torch.full((num_channels, NUM_CODES), torch.nan)
    low, high = intensity_range
    for label, means in label_means.items():
        for channel, mean in enumerate(means):
            usual[channel, label] = min(max((mean - low) / (high - low), 0.0), 1.0)
    return usual


def _bins(codes: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Codes with an offset for each channel of each image of the batch, int64 [B, C, D, H, W]."""
    volumes = torch.arange(len(codes) * num_channels, device=codes.device).view(-1, num_channels, 1, 1, 1)
    return codes + volumes * NUM_CODES


def _filled(image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Fill an image's invalid voxels from around, coarse to fine; soft tissue where nothing is valid.

    [B, C, D, H, W], valid bool [B, 1, D, H, W].
    """
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
