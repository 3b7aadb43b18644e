"""Beam search over the codes of a catalogue: every list it returns holds items, nothing else.

The catalogue is a trie whose leaves are the items. Nodes of a level are numbered in the order of
their codes, so that the children of a node, and the items below it, are runs of neighbours: flat
arrays of offsets hold the whole trie, and a beam never looks at a code that leads nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from mmrec_jax.types import Array, Query


@struct.dataclass
class Trie:
    """A catalogue of unique codes [I, C], level by level; M nodes in a level, one root above.

    Attributes:
      codes: the same codes, int32 [I, C], by item.
      code: int32 [M] of each level, the code that leads to a node from its parent.
      child: int32 [M of the level above + 1] of each level, where a parent's children begin.
      leaf: int32 [M + 1] of each level, where the items below a node begin.
      item: int32 [I], the items in the order of their codes.
      branching: the most children a parent has, of each level; static.
    """

    codes: Array
    code: tuple[Array, ...]
    child: tuple[Array, ...]
    leaf: tuple[Array, ...]
    item: Array
    branching: tuple[int, ...] = struct.field(pytree_node=False)

    @classmethod
    def of(cls, codes: np.ndarray) -> Trie:
        """The trie of ``codes`` int32 [I, C], built on the host.

        Raises:
          ValueError: if two items have the same code.
        """
        order = np.lexsort(codes.T[::-1])
        ordered = codes[order]
        above = np.array([0, len(codes)])  # where the items below each node of a level begin
        code, child, leaf, branching = [], [], [], []
        for level in range(codes.shape[1]):
            changes = (np.diff(ordered[:, : level + 1], axis=0) != 0).any(axis=1)
            begin = np.concatenate([[0], np.flatnonzero(changes) + 1])
            code.append(ordered[begin, level])
            child.append(np.searchsorted(begin, above))
            leaf.append(np.append(begin, len(codes)))
            branching.append(int(np.diff(child[-1]).max()))
            above = leaf[-1]
        if len(begin) < len(codes):
            raise ValueError(f"{len(codes)} items have only {len(begin)} different codes")
        levels = lambda arrays: tuple(jnp.asarray(a, jnp.int32) for a in arrays)
        whole = lambda array: jnp.asarray(array, jnp.int32)
        parts = levels(code), levels(child), levels(leaf)
        return cls(whole(codes), *parts, whole(order), tuple(branching))


def search(
    advance: Callable[[int, Any, Array | None], tuple[Array, Any]],
    state: Any,
    trie: Trie,
    query: Query,
    beams: int,
    k: int,
) -> tuple[Array, Array]:
    """The items whose codes a model finds likely, best first, int32 [B, k], and their scores.

    A score is the sum of the log-probabilities of an item's codes. A branch is followed only if
    some item below it may be recommended, so masked items take no place in a beam: the list holds
    k items wherever the catalogue has as many that are not masked. Places left over hold -1 and
    score -inf. Equal scores stand by smaller item.

    Args:
      advance: ``(level, state, code) -> (log-probabilities [B, W, codes of level], state)`` takes
        the code int32 [B, W] chosen last (None at level 0, where W is 1) for each of W beams.
      state: what ``advance`` remembers, arrays [B, W, ...], which follow their beams.
      trie: the catalogue.
      query: says which items are masked.
      beams: prefixes kept at each level, raised to k where that is more.
      k: length of the lists.
    """
    size, beams = query.user.shape[0], max(beams, k)
    free = jnp.ones((size, trie.item.shape[0]), jnp.int32)
    free = free.at[query.masked_row, query.masked_item].set(0, mode="drop")[:, trie.item]
    before = jnp.pad(jnp.cumsum(free, axis=1), ((0, 0), (1, 0)))  # free items before each leaf
    rows = jnp.arange(size)[:, None]
    node, score = jnp.zeros((size, 1), jnp.int32), jnp.zeros((size, 1), jnp.float32)
    code = None
    for level, branching in enumerate(trie.branching):
        logs, state = advance(level, state, code)
        begin, end = (trie.child[level][node + step][..., None] for step in (0, 1))
        child = begin + jnp.arange(branching)[None, None]  # [B, W, branching]
        legal = (child < end) & (score > -jnp.inf)[..., None]
        child = jnp.where(legal, child, 0)
        total = jnp.take_along_axis(logs.astype(jnp.float32), trie.code[level][child], axis=2)
        child = child.reshape(size, -1)
        below = before[rows, trie.leaf[level][child + 1]] - before[rows, trie.leaf[level][child]]
        total = (score[..., None] + total).reshape(size, -1)
        total = jnp.where(legal.reshape(size, -1) & (below > 0), total, -jnp.inf)
        score, pick = lax.top_k(total, min(beams, total.shape[1]))
        node, parent = jnp.take_along_axis(child, pick, axis=1), pick // branching
        code = trie.code[level][node]
        state = jax.tree.map(lambda x, parent=parent: x[rows, parent], state)
    item = jnp.where(score > -jnp.inf, trie.item[node], -1)
    worse, item = lax.sort((-score, item), num_keys=2)
    fill = ((0, 0), (0, max(k - item.shape[1], 0)))
    item, worse = (
        jnp.pad(x, fill, constant_values=v)[:, :k] for x, v in ((item, -1), (worse, jnp.inf))
    )
    return item, -worse
