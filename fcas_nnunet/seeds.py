"""Derive a seed for every random draw from the run's seed and the draw's name."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from a run's seed and the draw's name, (0, "case", 12) say; equal on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def channel_seeds(seed: int, num_channels: int) -> list[int]:
    """The seed of each channel of a scan; that of the first is the scan's own."""
    return [seed, *(derive_seed(seed, "channel", channel) for channel in range(1, num_channels))]
