"""Cross-entropy over the whole catalogue without a [positions, I] matrix in memory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from mmrec_jax.ops import across
from mmrec_jax.types import Array

_ENTRIES = 2**21  # logits held at a time: 8 MB
_ROWS = 128  # positions at a time on a CPU: logits of a narrow table stay in a core's cache


@jax.custom_vjp
def cross_entropy(
    hidden: Array, table: Array, target: Array, where: Array, allowed: Array | None = None
) -> Array:
    """Mean cross-entropy of softmax(hidden @ table.T) at the target items; float32 [].

    Exact. Positions of weight 0 cost nothing: the others are gathered and taken in chunks, and the
    loop runs over as many chunks as they fill. Gradients come out of the same pass, while a
    chunk's logits are still in the cache. Reverse mode only, once; ``where`` and ``allowed`` get no
    gradient.

    Args:
      hidden: [M, D].
      table: [I, D].
      target: int32 [M], read only where the weight is positive.
      where: [M] weights, not negative; 0 everywhere gives 0.
      allowed: bool [I], the items that take part; None for all. A target must be one of them.
    """
    return _forward(hidden, table, target, where, allowed)[0]


def _forward(hidden, table, target, where, allowed):
    """The loss, and its gradients by ``hidden`` and ``table``.

    On a mesh each device has its share of the positions and of the items; of the logits only
    their maxima, sums and products with the table travel.
    """
    mesh = across.mesh()
    if mesh is None:
        return _share(hidden, table, target, where, allowed)
    size, items = hidden.shape[0], table.shape[0]
    allowed = jnp.ones(items, bool) if allowed is None else allowed
    rows = (across.pad(x, mesh.shape["data"]) for x in (hidden, target, where))
    hidden, target, where = rows
    table, allowed = (across.pad(x, mesh.shape["model"]) for x in (table, allowed))
    share = partial(_share, data=("data",), model=("model",))
    data, model = P("data"), P("model")
    cut = dict(in_specs=(data, model, data, data, model), out_specs=(P(), (data, model)))
    share = jax.shard_map(share, **cut, check_vma=False)
    loss, (d_hidden, d_table) = share(hidden, table, target, where, allowed)
    return loss, (d_hidden[:size], d_table[:items])


def _share(hidden, table, target, where, allowed, data=(), model=()):
    """``_forward`` of one device: ``data`` and ``model`` are the mesh axes that others are on."""
    first = lax.axis_index(model) * table.shape[0]
    fit = max(8, 2 ** ((_ENTRIES // table.shape[0]).bit_length() - 1))
    fit = min(fit, _ROWS) if jax.default_backend() == "cpu" else fit
    size = min(fit, hidden.shape[0])
    slots = -(-hidden.shape[0] // size) * size
    (source,) = jnp.nonzero(where > 0, size=slots, fill_value=hidden.shape[0])
    take = lambda x: jnp.take(x, source, axis=0, mode="fill", fill_value=0)
    rows, wanted, weights = take(hidden), take(target) - first, take(where.astype(jnp.float32))
    weights /= jnp.maximum(lax.psum(weights.sum(), data), 1e-12)
    wanted = jnp.where((wanted >= 0) & (wanted < table.shape[0]), wanted, table.shape[0])

    def step(i, carry):
        loss, d_rows, d_table = carry
        part = lambda x: lax.dynamic_slice_in_dim(x, i * size, size)
        chunk = part(rows), table, part(wanted), part(weights)
        nll, d_part, d_items = _chunk(*chunk, allowed, model)
        return (
            loss + nll,
            lax.dynamic_update_slice_in_dim(d_rows, d_part, i * size, 0),
            (d_table + d_items),
        )

    # All devices take as many chunks as the one with most, so that none waits for a sum in vain.
    chunks = lax.pmax((jnp.sum(where > 0) + size - 1) // size, data)
    zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
    carry = (jnp.zeros((), jnp.float32), zeros(rows), zeros(table.T))
    loss, d_rows, d_table = lax.fori_loop(0, chunks, step, carry)
    d_table = d_table.T.at[wanted].add(-weights[:, None] * rows, mode="drop")
    d_hidden = zeros(hidden).at[source].set(lax.psum(d_rows, model), mode="drop")
    loss, d_table = lax.psum((loss, d_table), data)
    return loss, (d_hidden.astype(hidden.dtype), d_table.astype(table.dtype))


def _chunk(rows, table, wanted, weights, allowed, model):
    """Loss of rows [C, D]; its gradient by them; by the table, [D, I], the targets' part left out.

    The gradient by the rows is this device's share of the sum over ``model``; ``wanted`` is out
    of range where the target is on another device.
    """
    dot = lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)
    logits = dot(rows, table.T)  # [C, I]
    if allowed is not None:
        logits = jnp.where(allowed[None], logits, -jnp.inf)
    peak = lax.pmax(logits.max(axis=1, keepdims=True), model)
    unnormalised = jnp.exp(logits - peak)
    targets = jnp.take(table, wanted, axis=0, mode="fill", fill_value=0).astype(jnp.float32)
    own = (rows * targets).sum(axis=1)
    total, own = lax.psum((unnormalised.sum(axis=1, keepdims=True), own), model)
    nll = (peak + jnp.log(total))[:, 0] - own
    probability = (unnormalised * (weights[:, None] / total)).astype(table.dtype)
    d_rows = dot(probability, table) - weights[:, None] * targets
    # Twice as fast on a CPU as its transpose, which XLA would make of it without the barriers.
    d_table = lax.optimization_barrier(dot(*lax.optimization_barrier((rows.T, probability))))
    return (weights * nll).sum(), d_rows, d_table


def _backward(gradients, cotangent):
    d_hidden, d_table = (g * cotangent.astype(g.dtype) for g in gradients)
    return d_hidden, d_table, None, None, None


cross_entropy.defvjp(_forward, _backward)
