"""Measures of synthetic images and of segmentations."""
