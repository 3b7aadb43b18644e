"""Sequence task: one user's history at a time, every position to predict its next item."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from mmrec_jax import losses
from mmrec_jax import queries as ranking_queries
from mmrec_jax.ops import attention, sampling, softmax
from mmrec_jax.types import Array, Dataset, Interactions, Query, UserError

OBJECTIVES = ("ce", "bce", "sampled", "gbce")
SAMPLERS = ("uniform", "popularity")


@struct.dataclass
class Arrays:
    """Training histories on the device.

    Attributes:
      user: int32 [S], users with two training interactions or more; one example each.
      indptr: int32 [U+1], where each user's items begin.
      item: int32 [E], every user's items, oldest first.
      time: int32 [E], the same items' times (``queries.ticks``), or None where unknown.
      log_share: float32 [I], log of each item's share of the training interactions.
      positives: the same, compressed for sampling.
      max_len: L, static.
      blocks: see :class:`Batch`.
    """

    user: Array
    indptr: Array
    item: Array
    time: Array | None
    log_share: Array
    positives: sampling.Positives
    max_len: int = struct.field(pytree_node=False)
    blocks: int = struct.field(pytree_node=False)


@struct.dataclass
class Batch:
    """B histories without their last item, padded on the left, and what follows each position.

    Attributes:
      user: int32 [B].
      items: int32 [B, L], padded with -1; examples of weight 0 are all padding.
      targets: int32 [B, L], the item after each one of ``items``, -1 at padding.
      negatives: int32 [B, L], uniform over what is no training item of the user.
      mask: float32 [B, L], the weight of each position, 0 at padding.
      blocks: rows of L that the known positions of almost every batch fill when laid end to end;
        static. A batch may need more.
      times: int32 [B, L + 1], of ``items`` and of the last target; None where unknown.
      log: int32 [E], the items of all training interactions, to draw popular ones from.
      log_share: float32 [I], log-probability of each item in such a draw.
    """

    user: Array
    items: Array
    targets: Array
    negatives: Array
    mask: Array
    blocks: int = struct.field(pytree_node=False)
    times: Array | None = None
    log: Array | None = None
    log_share: Array | None = None


def prepare(data: Dataset, config) -> Arrays:
    """Sorts the training interactions by user and time and moves them to the device.

    Raises:
      UserError: if no user has two training interactions.
    """
    past = chronological(data.train)
    counts = np.bincount(past.user, minlength=data.spec.num_users)
    users = np.flatnonzero(counts >= 2)
    if not users.size:
        raise UserError(
            f"{data.name}: no user has two training interactions, which next-item prediction "
            "needs; use another split or another data set"
        )
    length = data.spec.max_len
    steps = np.minimum(counts[users] - 1, length)
    chosen = np.bincount(past.item, minlength=data.spec.num_items)
    time = ranking_queries.ticks(data, past.time)
    return Arrays(
        user=jnp.asarray(users, jnp.int32),
        indptr=jnp.asarray(np.concatenate([[0], np.cumsum(counts)]), jnp.int32),
        item=jnp.asarray(past.item, jnp.int32),
        time=None if time is None else jnp.asarray(time),
        log_share=jnp.asarray(np.log(np.maximum(chosen, 1) / len(past)), jnp.float32),
        positives=sampling.Positives.of(data.train, data.spec.num_users, data.spec.num_items),
        max_len=length,
        blocks=enough_blocks(steps, config.train.batch_size, length),
    )


def chronological(part: Interactions) -> Interactions:
    """``part`` by user, then time, then place in the file."""
    keys = (part.user,) if part.time is None else (part.time, part.user)
    return part.take(np.lexsort(keys))  # stable


def enough_blocks(steps: np.ndarray, batch_size: int, length: int) -> int:
    """Blocks of ``length`` for a batch of sequences with ``steps`` positions, six sigma above mean.

    A greedier bound wastes work in every step; a batch beyond it is merely slower.
    """
    total = batch_size * steps.mean() + 6 * np.sqrt(batch_size * steps.var())
    return int(min(np.ceil(total / length), batch_size))


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: users with a history to learn from."""
    return arrays.user.shape[0]


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The histories at ``index`` int32 [B]: their last L + 1 items, as inputs and targets.

    ``weight`` float32 [B] is 0 where an index only fills up the last batch.
    """
    user = arrays.user[index]
    begin, end = arrays.indptr[user, None], arrays.indptr[user + 1, None]
    place = end + jnp.arange(-arrays.max_len - 1, 0)[None]  # [B, L + 1]
    known = (place >= begin) & (weight[:, None] > 0)
    place = jnp.maximum(place, 0)
    item = jnp.where(known, arrays.item[place], -1)
    times = None if arrays.time is None else arrays.time[place]
    items, known = item[:, :-1], known[:, :-1]
    users = jnp.broadcast_to(user[:, None], items.shape)
    return Batch(
        user=user,
        items=items,
        targets=jnp.where(known, item[:, 1:], -1),
        negatives=sampling.negatives(key, users, arrays.positives),
        mask=known * weight[:, None],
        blocks=arrays.blocks,
        times=times,
        log=arrays.item,
        log_share=arrays.log_share,
    )


def packed_if_shorter(
    loss: Callable[[nn.Module, Batch, attention.Layout], Array], model: nn.Module, batch: Batch
) -> Array:
    """``loss`` of the batch, packed end to end where that saves work and the batch fits."""
    size, length = batch.items.shape
    full = lambda model, batch: loss(model, batch, attention.padded(batch.items))
    short = lambda model, batch: loss(model, batch, attention.packed(batch.items, batch.blocks))
    if 2 * batch.blocks > size or model.is_initializing():  # packing would save too little
        return full(model, batch)
    fits = jnp.sum(batch.items >= 0) <= batch.blocks * length
    return nn.cond(fits, short, full, model, batch)


def check(objective: str, sampler: str) -> None:
    """Raises a UserError where :func:`next_item` does not know the name."""
    for name, value, known in (
        ("objective", objective, OBJECTIVES),
        ("sampler", sampler, SAMPLERS),
    ):
        if value not in known:
            raise UserError(f"model.{name} is {value!r}; it must be one of {', '.join(known)}")


def next_item(
    key: Array,
    states: Array,
    table: Array,
    batch: Batch,
    layout: attention.Layout,
    *,
    objective: str,
    num_negatives: int,
    sampler: str,
    calibration: float | Array,
) -> Array:
    """Loss of the inner products of states and items as predictions of the next item.

    Args:
      key: of the negatives.
      states: [N, L, D], in ``layout``.
      table: [I, D].
      batch: holds targets and weights.
      layout: of the states.
      objective: "ce", softmax over all items; "bce"; "sampled", softmax over sampled items; or
        "gbce" (see ``losses``).
      num_negatives: K, for each position; "ce" has none. A single uniform one is no training item
        of the user. More are drawn from all items, once for each row of the layout, so that a row
        needs K item vectors and not L x K; where one of them is a position's own target, that
        position leaves it out.
      sampler: "uniform", or "popularity": in proportion to training interactions, whose
        log-probabilities "sampled" subtracts.
      calibration: of "gbce".
    """
    target, weight = layout.take(batch.targets, 0), layout.take(batch.mask, 0.0)
    if objective == "ce":
        flat = states.reshape(-1, states.shape[-1])
        return softmax.cross_entropy(flat, table, target.ravel(), weight.ravel())
    vectors = lambda item: jnp.take(table, item, axis=0)
    positive = jnp.sum(states * vectors(target), axis=-1)
    if num_negatives == 1 and sampler == "uniform":
        item = layout.take(batch.negatives, 0)[..., None]  # [N, L, 1]
        negative = jnp.sum(states * vectors(item[..., 0]), axis=-1)[..., None]
    else:
        shape = (states.shape[0], num_negatives)
        item = _draw(key, shape, batch, sampler, table.shape[0])[:, None]  # [N, 1, K]
        negative = jnp.einsum("nld,nkd->nlk", states, vectors(item[:, 0]))
    if objective == "sampled" and sampler == "popularity":
        assert batch.log_share is not None, "popularity needs the training log"
        positive -= batch.log_share[target]
        negative -= batch.log_share[item]
    negative = jnp.where(item == target[..., None], -1e9, negative)
    if objective == "bce":
        return losses.bce(positive, negative, weight)
    if objective == "gbce":
        return losses.gbce(positive, negative, weight, table.shape[0], calibration)
    return losses.sampled_softmax(positive, negative, weight)


def _draw(key: Array, shape, batch: Batch, sampler: str, num_items: int) -> Array:
    """Items of any user, int32 of ``shape``."""
    if sampler == "uniform":
        return jax.random.randint(key, shape, 0, num_items)
    assert batch.log is not None, "popularity needs the training log"
    return batch.log[jax.random.randint(key, shape, 0, batch.log.shape[0])]


def queries(data: Dataset, split: str, config) -> Query:
    """Ranking queries with the latest items before ``split``, in blocks."""
    return ranking_queries.ranking(data, split, config, sequences=True)


ENTITY = "user"  # what a query asks about
measure = ranking_queries.measure
summarise = ranking_queries.summarise
labels = ranking_queries.labels
