"""A map of cases by their features: t-SNE with a stated perplexity and a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.manifold import TSNE

from fcas_nnunet.faults import InputError

PERPLEXITY = 30.0
LEAST_POINTS = 4
SEED = 0


@dataclass(frozen=True)
class Embedding:
    """Positions of cases on a map. Distances between far points, and the axes, mean nothing."""

    coordinates: np.ndarray  # float64 [N, 2]
    perplexity: float  # perplexity that was used: 30, or a third of the points where they are too few
    seed: int  # seed of the optimisation


def embed(features: np.ndarray, perplexity: float = PERPLEXITY, seed: int = SEED) -> Embedding:
    """Compute t-SNE of features, starting from their principal components; the same features give the same map.

    Args:
        features: [N, C], at least 4 rows.
        perplexity: Approximate number of neighbours of a point; at most (N − 1) / 3 is used.
        seed: Seed of the optimisation.

    Raises:
        InputError: when there are too few points.

    Source: van der Maaten and Hinton, JMLR 9 (2008).
    """
    if len(features) < LEAST_POINTS:
        raise InputError(
            f"features: a map must have at least {LEAST_POINTS} points, got {len(features)}. Add cases to either set."
        )
    clamped = min(perplexity, (len(features) - 1) / 3)
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    map_ = TSNE(n_components=2, perplexity=clamped, init="pca", random_state=seed, n_jobs=1)
    return Embedding(map_.fit_transform(centred).astype(np.float64), clamped, seed)
