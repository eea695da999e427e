"""MaskConfig, where MGM's modules look for it."""

from fcas_nnunet.mask_config import MAX_INJECTIVE_FRACTION, MaskConfig, Padding

__all__ = ["MAX_INJECTIVE_FRACTION", "MaskConfig", "Padding"]
