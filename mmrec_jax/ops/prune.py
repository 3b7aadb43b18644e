"""User-item graphs that lack some edges, drawn anew for each epoch."""

from __future__ import annotations

import jax.numpy as jnp

from mmrec_jax.ops import sampling
from mmrec_jax.types import Array

_EPSILON = 1e-7  # added to degrees, as MMRec does


def draw(key: Array, log_weight: Array, dropout: float) -> Array:
    """1 for the edges that stay, ``int(E (1 - dropout))`` of them, else 0; float32 [E].

    They are drawn in proportion to their weights, without replacement.

    Args:
      key: of the drawing.
      log_weight: [E].
      dropout: share of the edges that is left out; no traced value.
    """
    size = log_weight.shape[0]
    kept = sampling.without_replacement(key, log_weight, int(size * (1.0 - dropout)))
    return jnp.zeros(size).at[kept].set(1.0)


def edge_weights(
    user: Array, item: Array, num_users: int, num_items: int, keep: Array | None = None
) -> Array:
    """``(d_u d_i)^-1/2`` of the edges (``user``, ``item``), [E] each, as float32 [E].

    Args:
      user, item: int32 [E].
      num_users: U.
      num_items: I.
      keep: [E]; where it is 0, not 1, the edge weighs nothing and degrees do not count it.
    """
    keep = jnp.ones(user.shape) if keep is None else keep
    users = jnp.zeros(num_users).at[user].add(keep) + _EPSILON
    items = jnp.zeros(num_items).at[item].add(keep) + _EPSILON
    return keep * users[user] ** -0.5 * items[item] ** -0.5
