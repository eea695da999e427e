"""The generator's settings, a frozen dataclass per stage; `config.files` reads and writes them as YAML."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, ClassVar

from pydantic import Field

from fcas_nnunet.case import NUM_BITS
from fcas_nnunet.config.confidence import CalibrationConfig, ConfidenceConfig
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.config.options import Architecture, Conditioning, ItemsPerEpoch, PredictionType, TemplateRegistration
from fcas_nnunet.config.sampling import SamplingConfig
from fcas_nnunet.config.schema import (
    Count,
    CountOrZero,
    NotNegative,
    PlainName,
    Positive,
    Removed,
    Share,
    ShareBelowOne,
    Size,
    Sizes,
    Widths,
    check,
    rule,
    settings,
)
from fcas_nnunet.config.sources import PaintConfig, VarietyConfig, WarpConfig
from fcas_nnunet.labels.anatomy import Role

LATENT_DOWNSAMPLING = 4
LATENT_CHANNELS = 4
#: The bits of the reference mask and those of the template's mask, in front of the template's image (paper §3.1.1).
MASK_CHANNELS = 2 * NUM_BITS

LatentMultiples = Annotated[
    Sizes, rule(f"multiples of {LATENT_DOWNSAMPLING}", lambda sizes: all(n % LATENT_DOWNSAMPLING == 0 for n in sizes))
]
#: Voxels of a training crop: 1024³, four times what a GPU of 80 GB trains on.
LARGEST_CROP = 1 << 30
Crop = Annotated[Sizes, rule(f"of at most {LARGEST_CROP:,} voxels", lambda sizes: math.prod(sizes) <= LARGEST_CROP)]
IntensityRange = Annotated[tuple[float, float], rule("increasing", lambda pair: pair[0] < pair[1])]
#: Number of shapes or contrasts of a training case; each shape, and each contrast of it, is a volume on disk.
Variants = Annotated[int, Field(ge=1, le=1000)]
ResidualBlocks = Annotated[int, Field(ge=1, le=16)]
EmbeddingWidths = Annotated[Widths, rule("one number or three", lambda widths: len(widths) in (1, 3))]
Beta = Annotated[float, Field(gt=0, lt=1)]


@settings
class GridConfig:
    """The working grid that all volumes are resampled to.

    Attributes:
        spacing_mm: Working spacing along (D, H, W); None = the data set's median spacing, coarsened or refined alike in
            all axes where its median volume holds more than `max_voxels` or fewer than `min_voxels`.
        max_voxels: Largest working volume.
        min_voxels: Smallest working volume. One latent covers 4³ working voxels, which must be small against the
            vessels, whatever the scans' spacing.
        crop_size: Voxels along (D, H, W) of a training crop, multiples of `FCaSConfig.grid_multiple`; smaller volumes
            are padded with their border.
        intensity_range: Standard units mapped to [0, 1]; values outside are clipped.
    """

    spacing_mm: tuple[Positive, Positive, Positive] | None = None
    max_voxels: Count = 128**3
    min_voxels: CountOrZero = 0
    crop_size: Crop = (64, 64, 64)
    intensity_range: IntensityRange = (-1000.0, 1000.0)

    def __post_init__(self) -> None:
        check(self, (self.min_voxels <= self.max_voxels, "min_voxels", f"in [0, max_voxels = {self.max_voxels}]"))


@settings
class OptimisationConfig:
    """Settings of one training run.

    Attributes:
        num_steps: Optimiser steps at most; the learning rate decays to zero over them (cosine, after `warmup_steps`).
            0 = the run takes `num_epochs`.
        batch_size: Crops (autoencoder) or pairs (TCDM) per step, over all processes.
        learning_rate: AdamW's peak learning rate.
        adam_beta2: Decay of AdamW's second moment; a run of some hundred steps wants it shorter than 0.999.
        warmup_steps: Steps of linear warm-up.
        max_gradient_norm: Gradients are clipped to this norm.
        ema_decay: Decay of the exponential moving average of the weights; 0 = none.
        validate_every: Steps between validations and saved states.
        patience: Validations without improvement after which training stops; 0 = never.
        num_epochs: Epochs at most, instead of `num_steps`. An epoch visits every variant once (autoencoder), or the
            items of `PairConfig.items_per_epoch` (TCDM).
        micro_batch_size: Items of the batch that a process computes at once, at most; their gradients are accumulated.
            0 = the process's whole share. It changes memory and speed, not what is learnt.
        sample_every: Steps between sample pictures; 0 = none.
        compile: Apply `torch.compile`.
    """

    num_steps: CountOrZero
    batch_size: Count
    learning_rate: Positive
    adam_beta2: ShareBelowOne = 0.999
    warmup_steps: CountOrZero = 20
    max_gradient_norm: Positive = 1.0
    ema_decay: ShareBelowOne = 0.0
    validate_every: Count = 100
    patience: CountOrZero = 0
    num_epochs: CountOrZero = 0
    micro_batch_size: CountOrZero = 0
    sample_every: CountOrZero = 0
    compile: bool = False

    def __post_init__(self) -> None:
        micro = self.micro_batch_size
        check(
            self,
            ((self.num_steps > 0) != (self.num_epochs > 0), "num_steps, num_epochs", "one positive and the other 0"),
            (not micro or self.batch_size % micro == 0, "batch_size", f"a multiple of micro_batch_size ({micro})"),
        )


@settings
class AutoencoderConfig:
    """The 4-channel, 4× autoencoder (MONAI's `AutoencoderKlMaisi`), which every channel of a scan goes through alone.

    Attributes:
        channels: Feature channels per level.
        num_res_blocks: Residual blocks per level.
        norm_num_groups: Groups of the group norms.
        patch_size: Voxels folded into channels before the network (space-to-depth); 1 = none, as in MAISI. The network
            halves the grid once per further level, so patch_size · 2^(levels − 1) = 4.
        linear_skip: Add a linear path around the network, which starts as the linear fit of every 4³ block; the network
            then learns what is missing, in minutes instead of hours.
        crop_size: Voxels along (D, H, W) of a training crop.
        kl_weight: Weight of the KL term.
        heart_weight: Weight of labelled voxels in the L1 loss (background 1).
        thin_weight: Weight of thin structures and their rim of one voxel.
        optimisation: Settings of its training.
    """

    channels: Widths
    optimisation: OptimisationConfig
    num_res_blocks: ResidualBlocks = 1
    norm_num_groups: Size = 8
    patch_size: Size = 1
    linear_skip: bool = False
    crop_size: LatentMultiples = (32, 32, 32)
    kl_weight: NotNegative = 1e-6
    heart_weight: Positive = 10.0
    thin_weight: Positive = 30.0

    def __post_init__(self) -> None:
        downsampling = self.patch_size * 2 ** (len(self.channels) - 1)
        check(
            self,
            (downsampling == LATENT_DOWNSAMPLING, "patch_size · 2^(levels − 1)", "4", downsampling),
            _whole_groups(self.channels, self.norm_num_groups),
        )


@settings
class PairConfig:
    """Training data of the denoiser: pairs (A, B), and the variants of a case they are drawn from.

    Attributes:
        self_pair_probability: Share of pairs that are one case in two shapes under one contrast; the others are the
            paper's pairs of different cases. Of registered templates: the share that shows the drawn case itself,
            brought to a partner and back; the others show the partner, in the case's contrast.
        num_partners: Training cases that each case is registered to, where templates are registered.
        num_shapes: Shapes per case: the original and deformed ones.
        num_contrasts: Contrasts per shape: the original and jittered ones.
        contrast_jitter: Standard deviation of the offset, in standard units, that a contrast adds to each
            labelled structure.
        surroundings_jitter: The same for each surrounding structure.
        items_per_epoch: Items of an epoch of TCDM's training: `pairs`, every pair of cases once; or `cases`, as many
            items as there are cases, each of which is either end of a pair of different cases equally often.
        one_direction: Train only B@A instead of both directions of Eq. 4 (an ablation).
        reference_surroundings: Include the surroundings in the reference mask (the paper's other setting).
    """

    self_pair_probability: Share = 1.0
    num_shapes: Variants = 2
    num_contrasts: Variants = 8
    num_partners: Variants = 2
    contrast_jitter: NotNegative = 80.0
    surroundings_jitter: NotNegative = 20.0
    items_per_epoch: ItemsPerEpoch = ItemsPerEpoch.PAIRS
    one_direction: bool = False
    reference_surroundings: bool = False

    def __post_init__(self) -> None:
        enough = self.self_pair_probability == 0 or self.num_shapes >= 2
        check(self, (enough, "num_shapes", "at least 2 where self-pairs are drawn"))


@settings
class TCDMConfig:
    """Denoiser, ControlNet and diffusion process.

    Attributes:
        channels: Feature channels per level of denoiser and ControlNet.
        attention_levels: Whether each level has attention.
        num_head_channels: Channels per attention head, per level.
        num_res_blocks: Residual blocks per level.
        norm_num_groups: Groups of the group norms.
        architecture: `plain`, or that of MAISI's published weights.
        frozen_denoiser: Train the ControlNet alone, as MAISI does; set where a denoiser is loaded.
        conditioning: Path of the condition into the denoiser.
        condition_embedding_channels: Width of the condition embedding. One number: space-to-depth(4) and convolutions
            at latent resolution; three: MAISI's strided convolutions.
        prior: Start from a guess (not in the paper): the template with its structures replaced by the reference's, as
            further channels of the condition. Its relation to the clean latents is fitted before training, and the
            denoiser predicts the rest. With it, the drawn contrast follows the template after minutes.
        registration: `deformable`: templates are registered to the reference and brought onto the mask (not in the
            paper); where the two masks still disagree is a channel of its own, and the first guess is the template with
            these places filled. `none`: templates lie centre on centre.
        prediction_type: Quantity that the denoiser predicts.
        multi_resolution_noise: Amount of coarse noise mixed in, a factor per halving of the resolution; 0 = white
            noise, as in the paper. The steps of the `ddpm` solver add white noise in any case.
        num_train_timesteps: Steps of the diffusion (scaled linear betas), or the timestep of a flow's time 1.
        beta_start: First beta.
        beta_end: Last beta.
        gradient_checkpointing: Compute activations again in the backward pass instead of storing them: a fraction of
            the memory for about a third more time. It changes nothing that is learnt.
        image_channels: Channels of a scan; taken from the data set.
        pairs: Settings of its training pairs.
        optimisation: Settings of its training.
    """

    channels: Widths
    attention_levels: tuple[bool, ...]
    num_head_channels: tuple[CountOrZero, ...]
    optimisation: OptimisationConfig
    num_res_blocks: ResidualBlocks = 1
    norm_num_groups: Size = 16
    architecture: Architecture = Architecture.PLAIN
    frozen_denoiser: bool = False
    conditioning: Conditioning = Conditioning.CONCAT
    condition_embedding_channels: EmbeddingWidths = (32,)
    prior: bool = False
    registration: TemplateRegistration = TemplateRegistration.NONE
    prediction_type: PredictionType = PredictionType.V_PREDICTION
    multi_resolution_noise: Share = 0.0
    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    beta_start: Beta = 0.0015
    beta_end: Beta = 0.0195
    gradient_checkpointing: bool = False
    image_channels: Size = 1
    pairs: PairConfig = field(default_factory=PairConfig)

    def __post_init__(self) -> None:
        levels, heads = len(self.channels), self.num_head_channels
        attends = (*self.attention_levels[:-1], True)  # the middle block of the deepest level always attends
        whole_heads = all(
            not needed or (head > 0 and width % head == 0)
            for head, width, needed in zip(heads, self.channels, attends, strict=False)
        )
        divisors = f"divisors of channels {self.channels} where a level attends, as the last one always does"
        own_network = self.architecture == Architecture.PLAIN and not self.frozen_denoiser
        controlled = self.conditioning == Conditioning.CONTROLNET
        predicts_sample = self.prediction_type == PredictionType.SAMPLE
        check(
            self,
            (len(self.attention_levels) == levels, "attention_levels", "one per level"),
            (len(heads) == levels, "num_head_channels", "one per level"),
            (whole_heads, "num_head_channels", divisors),
            _whole_groups(self.channels, self.norm_num_groups),
            (predicts_sample or not self.prior, "prediction_type", "sample where prior is on"),
            (controlled or own_network, "conditioning", "controlnet where the denoiser is MAISI's or frozen"),
            (own_network or self.image_channels == 1, "image_channels", "1 where the denoiser is MAISI's or frozen"),
            (self.beta_start < self.beta_end, "beta_end", f"above beta_start ({self.beta_start})"),
        )

    @property
    def grid_multiple(self) -> int:
        """Padded volumes are multiples of this: 4 for the autoencoder, times 2 for each step between two levels."""
        return LATENT_DOWNSAMPLING * 2 ** (len(self.channels) - 1)

    @property
    def condition_channels(self) -> int:
        """Channels of the raw condition."""
        return MASK_CHANNELS + self.image_channels * (1 + self.prior) + self.registers

    @property
    def registers(self) -> bool:
        """Whether templates are registered."""
        return self.registration == TemplateRegistration.DEFORMABLE

    @property
    def latent_channels(self) -> int:
        """Channels of a scan's latents: those of all its channels."""
        return LATENT_CHANNELS * self.image_channels


@settings
class FCaSConfig:
    """All settings of a generator; with the data, they determine a run.

    Attributes:
        roles: Label name → roles (thin, wide, root, chamber, wall; none = []), where they do not follow from the name
            or from `fcas_roles` in dataset.json.
    """

    REMOVED: ClassVar[Removed] = {"preview": None}

    preset: PlainName
    grid: GridConfig
    autoencoder: AutoencoderConfig
    tcdm: TCDMConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    confidence: ConfidenceConfig = field(default_factory=ConfidenceConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    calibration: CalibrationConfig | None = None
    warp: WarpConfig = field(default_factory=WarpConfig)
    paint: PaintConfig = field(default_factory=PaintConfig)
    variety: VarietyConfig = field(default_factory=VarietyConfig)
    roles: dict[str, tuple[Role, ...]] = field(default_factory=dict)
    seed: CountOrZero = 0

    def __post_init__(self) -> None:
        crop, multiple = self.grid.crop_size, self.grid_multiple
        in_latents = multiple // LATENT_DOWNSAMPLING
        steps, timesteps = self.sampling.num_inference_steps, self.tcdm.num_train_timesteps
        for_levels = f"multiples of {multiple} for {len(self.tcdm.channels)} levels of the denoiser"
        smaller = all(size <= limit for size, limit in zip(self.autoencoder.crop_size, crop, strict=True))
        whole = all(size % in_latents == 0 for size in self.sampling.window)
        at_most = f"at most tcdm.num_train_timesteps ({timesteps})"
        whole_way = self.sampling.strength == 1 or self.tcdm.prior
        check(
            self,
            (all(size % multiple == 0 for size in crop), "grid.crop_size", for_levels),
            (smaller, "autoencoder.crop_size", f"at most grid.crop_size {crop}"),
            (whole, "sampling.window", f"positive multiples of {in_latents} latents"),
            (steps is None or steps <= timesteps, "sampling.num_inference_steps", at_most),
            (whole_way, "sampling.strength", "1 where tcdm.prior is off, since there is no guess to begin from"),
        )

    @property
    def grid_multiple(self) -> int:
        """Padded working volumes have sizes that are multiples of this."""
        return self.tcdm.grid_multiple


def _whole_groups(channels: tuple[int, ...], groups: int) -> tuple[bool, str, str]:
    """The rule that groups divide every level's channels, for `check`."""
    return all(c % groups == 0 for c in channels), "channels", f"multiples of norm_num_groups ({groups})"
