"""Triples and boxes along the axes (D, H, W) of a volume."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Triple: TypeAlias = tuple[T, T, T]
Box = tuple[slice, slice, slice]


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Three values, one for each axis, as a tuple of that length."""
    d, h, w = values
    return d, h, w


def grown(box: Box, margin: Iterable[int] = (1, 1, 1)) -> Box:
    """A box with a margin around it; it begins within the volume, and may end beyond it."""
    return triple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margin, strict=True))
