"""Popularity: the items that most interactions were with, the same for everyone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class Popularity(Recommender):
    """Scores an item by its number of training interactions; nothing is learned."""

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        count = np.bincount(data.train.item, minlength=data.spec.num_items)
        return Context(tables={"count": jnp.asarray(count, jnp.float32)})

    def represent(self, ctx: Context) -> Array:
        return ctx.tables["count"]

    def score(self, rep: Array, query: Query) -> Array:
        return jnp.broadcast_to(rep, (query.user.shape[0], rep.shape[0]))


Model = Popularity
