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
