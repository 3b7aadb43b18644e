"""Causal self-attention over sequences that are padded on the left, or packed end to end.

Most histories are far shorter than the longest, so a padded batch [B, L] is mostly padding.
Packed, the same positions fill a few blocks of L: a sequence then spans two blocks at most, and
attention that looks back one block sees all of it. Both layouts give the same states.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from mmrec_jax.types import Array


@struct.dataclass
class Layout:
    """Where the positions of a batch [B, L] lie.

    Attributes:
      slot: int32 [N, L], the position b * L + l that lies there, or -1; ascending where known.
      packed: whether a sequence may begin in the block before; static.
    """

    slot: Array
    packed: bool = struct.field(pytree_node=False)

    @property
    def known(self) -> Array:
        """Where something lies, bool [N, L]."""
        return self.slot >= 0

    @property
    def column(self) -> Array:
        """Place of each position in its padded sequence, int32 [N, L]."""
        return self.slot % self.slot.shape[1]

    def take(self, values: Array, fill: float) -> Array:
        """Entries of ``values`` [B, L] in this layout, [N, L]; ``fill`` where nothing lies."""
        return jnp.where(self.known, values.reshape(-1)[jnp.maximum(self.slot, 0)], fill)

    def reach(self, x: Array, fill: float = 0) -> Array:
        """The keys [N, L or 2L, ...] that the blocks of ``x`` [N, L, ...] may look at."""
        if not self.packed:
            return x
        before = jnp.pad(x[:-1], ((1, 0),) + ((0, 0),) * (x.ndim - 1), constant_values=fill)
        return jnp.concatenate([before, x], axis=1)

    def visible(self) -> Array:
        """Which key each position may attend to: its own sequence up to itself.

        Empty positions see each other and are seen by no other.

        Returns:
          bool [N, L, L or 2L].
        """
        length = self.slot.shape[1]
        query, key = self.slot[:, :, None], self.reach(self.slot, -1)[:, None, :]
        return (query // length == key // length) & (key <= query)


def padded(items: Array) -> Layout:
    """Every sequence of ``items`` [B, L], padding -1, in a block of its own."""
    slot = jnp.arange(items.size, dtype=jnp.int32).reshape(items.shape)
    return Layout(jnp.where(items >= 0, slot, -1), packed=False)


def packed(items: Array, blocks: int) -> Layout:
    """The known positions of ``items`` [B, L] end to end; they must fit into ``blocks`` times L."""
    length = items.shape[1]
    (slot,) = jnp.nonzero(items.reshape(-1) >= 0, size=blocks * length, fill_value=-1)
    return Layout(slot.astype(jnp.int32).reshape(blocks, length), packed=True)


def attend(
    query: Array, key: Array, value: Array, layout: Layout, heads: int, drop: Callable
) -> Array:
    """Scaled dot-product attention of query, key and value [N, L, D]; [N, L, D].

    ``drop`` is applied to the attention weights. Rows of empty positions hold finite junk.
    """
    split = lambda x: x.reshape(*x.shape[:2], heads, -1)  # [N, L, D] -> [N, L, heads, D / heads]
    key, value = layout.reach(key), layout.reach(value)
    logits = jnp.einsum("nqhd,nkhd->nhqk", split(query), split(key))
    logits = logits.astype(jnp.float32) * (query.shape[-1] // heads) ** -0.5
    logits = jnp.where(layout.visible()[:, None], logits, -jnp.inf)  # itself is always visible
    weight = drop(jax.nn.softmax(logits).astype(value.dtype))
    return jnp.einsum("nhqk,nkhd->nqhd", weight, split(value)).reshape(query.shape)
