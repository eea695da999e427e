"""Standard units: what the networks, the contrasts and the errors of a scan are counted in, whatever its modality.

CT is in HU already. The values of other modalities mean nothing from scan to scan, so they are counted in 1/200 of the
scan's own standard deviation, from its mean. A heart in CT has a standard deviation of 200 to 300 HU, so a structure is
about as many units away from its neighbours in either. Channels of colour are counted from their fixed range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITS_PER_DEVIATION = 200.0

#: As nnU-Net reads a channel's name: whatever its case.
CT = "CT"
CT_UNIT = "HU"
_RESCALED, _COLOUR = "rescale_to_0_1", "rgb_to_0_1"
_COLOUR_RANGE = (0.0, 255.0)  # nnU-Net refuses other values
_MOST_SAMPLES = 2**20
_ROBUST_PERCENT = (0.5, 99.5)  # nnU-Net clips CT at these; a metal clip must not decide the scale of a scan


def is_ct(channel_name: str) -> bool:
    """Return whether nnU-Net treats a channel of this name as CT."""
    return channel_name.casefold() == CT.casefold()


def unit_name(*channel_names: str) -> str:
    """The unit that follows a number in standard units of these channels where users read it."""
    return CT_UNIT if all(map(is_ct, channel_names)) else "units"


def sample_of(image: np.ndarray) -> np.ndarray:
    """Voxels at even steps, about a million at most, from which percentiles of an image are taken."""
    return image.reshape(-1)[:: max(1, -(-image.size // _MOST_SAMPLES))]


@dataclass(frozen=True)
class IntensityScale:
    """Conversion between a scan's stored values and standard units."""

    centre: float = 0.0  # stored value of 0 standard units
    unit: float = 1.0  # stored values per standard unit
    dtype: str = "int16"  # data type of the stored values
    limits: tuple[float, float] | None = None  # stored values must lie within, beside what the data type holds

    @classmethod
    def of(cls, image: np.ndarray, channel_name: str) -> IntensityScale:
        """The scale of a scan.

        Args:
            image: Own values, any shape, in their data type.
            channel_name: From `dataset.json`. CT is taken as it is. All else is taken as nnU-Net's z-score takes it,
                from the voxels that are not 0, where a zero background was cut out, with the outermost 0.5 % drawn in.
                Of `rescale_to_0_1`, nnU-Net reads the lowest and the highest value, so that new scans keep within
                these. `rgb_to_0_1` is 0 to 255 in every scan, which is -1000 to 1000 units.
        """
        if is_ct(channel_name):
            return cls()
        values = sample_of(image).astype(np.float64)
        values = values[np.isfinite(values)]
        nonzero = values[values != 0]
        values = nonzero if nonzero.size and np.ptp(nonzero) else values  # of a mask as a channel, all voxels count
        dtype = "float32" if image.dtype.kind == "f" else image.dtype.name if image.dtype.itemsize <= 4 else "int32"
        if channel_name.casefold() == _COLOUR:
            low, high = _COLOUR_RANGE
            return cls((low + high) / 2, (high - low) / (10 * UNITS_PER_DEVIATION), dtype, _COLOUR_RANGE)
        if not values.size:
            return cls(dtype=dtype)
        rescaled = channel_name.casefold() == _RESCALED
        limits = (float(np.nanmin(image)), float(np.nanmax(image))) if rescaled else None
        drawn_in = np.clip(values, *np.percentile(values, _ROBUST_PERCENT))
        return cls(float(drawn_in.mean()), float(drawn_in.std()) / UNITS_PER_DEVIATION or 1.0, dtype, limits)

    def to_standard(self, image: np.ndarray) -> np.ndarray:
        """Own values => standard units, float32."""
        if (self.centre, self.unit) == (0, 1):
            return image.astype(np.float32)
        return (image.astype(np.float32) - np.float32(self.centre)) / np.float32(self.unit)

    def to_own(self, image: np.ndarray) -> np.ndarray:
        """Standard units => own values in their data type, any shape."""
        return self.stored(image * np.float32(self.unit) + np.float32(self.centre))

    def stored(self, own: np.ndarray) -> np.ndarray:
        """Own values in their data type: whole numbers are rounded to the nearest and clipped to what it holds."""
        kind = np.dtype(self.dtype)
        if self.limits is not None:
            own = np.clip(own, *self.limits)
        if kind.kind == "f":
            return own.astype(kind)
        limits = np.iinfo(kind)
        return np.clip(np.rint(own, dtype=np.float64), limits.min, limits.max).astype(kind)
