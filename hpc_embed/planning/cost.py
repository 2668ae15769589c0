"""What a window costs: a part that grows with its tokens and one that grows with their square."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_embed.model import Model
from hpc_embed.run.plan import Cost

Ints = NDArray[np.int64]

MILLITOKEN = 1000
COMPOSITION_FLOPS_PER_RESIDUE = 4


def flops(cost: Cost, num_tokens_N: Ints) -> NDArray[np.float64]:
    """FLOPs of each window."""
    tokens_N = num_tokens_N.astype(np.float64)
    return tokens_N * (cost.linear_flops + tokens_N * cost.quadratic_flops)


def millitokens(cost: Cost, num_tokens_N: Ints) -> Ints:
    """Cost of each window as thousandths of a token's linear cost: integers, so that sums are exact."""
    ratio = cost.quadratic_flops / cost.linear_flops
    return np.rint(MILLITOKEN * num_tokens_N * (1 + ratio * num_tokens_N)).astype(np.int64)


def cost_of(model: Model) -> Cost:
    """What one forward pass costs: a layer multiplies each token with 4 D*W attention weights and its
    feed-forward weights, at two FLOPs a weight; scores and their use take 4 W FLOPs for each pair of tokens (D the
    hidden size, W the heads' own).
    """
    if model.shape is None:
        return Cost(linear_flops=COMPOSITION_FLOPS_PER_RESIDUE, quadratic_flops=0)
    shape = model.shape
    weights = shape.num_layers * (4 * shape.hidden * shape.width + model.feed_forward_weights)
    return Cost(linear_flops=2 * weights, quadratic_flops=4 * shape.num_layers * shape.width)


def tokens_of_lengths(model: Model, lengths_N: Ints) -> Ints:
    """Tokens of windows of so many residues; exact for one token a residue, else the model's mean."""
    if model.shape is None:
        return lengths_N
    return np.ceil(lengths_N / model.residues_per_token).astype(np.int64) + model.num_special_tokens
