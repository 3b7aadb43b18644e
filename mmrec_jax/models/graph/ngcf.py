"""NGCF: neighbours' embeddings and their products with a node's own, transformed layer by layer."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender

_SLOPE = 0.2  # of the leaky ReLU, TensorFlow's default
_xavier = nn.initializers.xavier_uniform()


def _xavier_bias(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """As the authors initialise a bias: a Xavier matrix of one row."""
    return _xavier(key, (1, *shape), dtype)[0]


class NGCF(Recommender):
    """Nonlinear propagation with a product term; all layers side by side, trained with BPR.

    Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019,
    https://arxiv.org/abs/1905.08108.

    Follows the authors' code as their README runs it, where it differs from the paper: the graph
    has self-loops and is normalised by row; the neighbours' term has the node itself by that loop
    alone; both terms have a bias and a leaky ReLU of their own; message dropout comes after, on
    their sum; node dropout is off; the regulariser takes the final embeddings, not the parameters.
    Their batches draw users evenly and one item of each, ours draw interactions evenly.

    Attributes:
      dim: D, width of the embedding tables.
      hidden: width of each layer.
      dropout: share of the entries of a layer that is dropped.
      reg_weight: weight of half the squared norms of the batch's final embeddings.
    """

    dim: int = 64
    hidden: tuple[int, ...] = (64, 64, 64)
    dropout: float = 0.1
    reg_weight: float = 1e-5

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        users, size = data.spec.num_users, data.spec.num_users + data.spec.num_items
        ends = data.train.user.astype(np.int64), data.train.item.astype(np.int64) + users
        loop = np.arange(size)
        row = np.concatenate([ends[0], ends[1], loop])
        col = np.concatenate([ends[1], ends[0], loop])
        weight = 1.0 / np.bincount(row, minlength=size)[row]
        return Context(graphs={"train": graph.from_edges(row, col, weight, size)})

    def setup(self):
        self.user = self.table("user", self.dim)
        self.item = self.table("item", self.dim)
        dense = lambda width: nn.Dense(width, kernel_init=_xavier, bias_init=_xavier_bias)
        self.sum = [dense(width) for width in self.hidden]
        self.product = [dense(width) for width in self.hidden]
        self.drop = layers.Dropout(self.dropout)

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes = self._nodes(ctx, deterministic=True)
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        rows = batch.nodes(self.spec.num_users)
        nodes = self._nodes(ctx, deterministic=False)
        user, item, negative = batch.split(graph.take_rows(nodes, rows))
        ranking = losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight)
        reg = losses.batch_squares((user, item, negative), batch.weight)
        return ranking + self.reg_weight * reg, {"bpr": ranking, "reg": reg}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _nodes(self, ctx: Context, deterministic: bool) -> Array:
        """Embeddings and the normalised output of each layer side by side, [N, D + sum(hidden)]."""
        layer = jnp.concatenate([self.user, self.item])
        parts = [layer]
        for sum_of, product_of in zip(self.sum, self.product, strict=True):
            near = graph.matmul(ctx.graphs["train"], layer)
            product = nn.leaky_relu(product_of(layer * near), _SLOPE)
            layer = nn.leaky_relu(sum_of(near), _SLOPE) + product
            # Without the barrier XLA:CPU redoes all this inside every gather that reads it.
            layer = lax.optimization_barrier(self.drop(layer, deterministic))
            parts.append(losses.unit(layer).astype(layer.dtype))
        return jnp.concatenate(parts, axis=1)


Model = NGCF
