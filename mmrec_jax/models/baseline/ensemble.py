"""Late ensemble: what EASE makes of behaviour, and nearest neighbours of content."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from mmrec_jax.ops import graph, item_weights, neighbours
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class Ensemble(Recommender):
    """Adds up the scores of two closed forms, standardised for each user.

    What a multimodal method should beat: the features are joined to behaviour as late and as
    plainly as can be. Its parts are EASE (Steck, WWW 2019, https://arxiv.org/abs/1905.03375) and
    an item-based nearest neighbour method on content (Lops et al., "Content-based Recommender
    Systems", 2011): the history's items recommend their ``k`` nearest by cosine, in the graph of
    each modality, normalised by degree as in the field's item graphs, or in the ready-made graphs
    of ``data.item_graphs``; the graphs are averaged. The construction is this project's own.

    A user's scores of either kind are shifted and scaled to mean 0 and deviation 1 over the items
    that content says something of and that are not in the history. An item with neither features
    nor neighbours keeps its standardised EASE score.

    Attributes:
      reg: weight of the squared norm in EASE.
      k: neighbours of an item.
      share: of content in the sum, from 0 (EASE alone) to 1.
    """

    reg: float = 200.0
    k: int = 10
    share: float = 0.3

    task = "rows"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        reg, k, share = (hyper.get(name, getattr(cls, name)) for name in ("reg", "k", "share"))
        if k < 1 or not 0 <= share <= 1:
            raise UserError(f"model.k is {k} and model.share {share}; need k >= 1, share in [0, 1]")
        if not (data.features or data.item_graphs):
            raise UserError(
                f"{data.name}: the ensemble needs item features or an item graph; name some in "
                "data.features or data.item_graphs, or take baseline.ease"
            )
        content = neighbours.item_graph(data, k, weighted=True)
        everything = jnp.ones((data.spec.num_items, 1), jnp.float32)
        known = np.asarray(graph.matmul(content, everything))[:, 0] > 0
        return Context(
            graphs={"content": content},
            tables={
                "weight": item_weights.ridge_regression(data, reg),
                "known": jnp.asarray(known, jnp.float32),
            },
        )

    def represent(self, ctx: Context) -> Context:
        return ctx

    def score(self, rep: Context, query: Query) -> Array:
        behaviour = item_weights.add_rows(rep.tables["weight"], query)
        history = item_weights.histories(query, self.spec.num_items)
        content = item_weights.add_columns(rep.graphs["content"], history)
        known = jnp.broadcast_to(rep.tables["known"][None], content.shape)
        counted = known * (1 - history.T)
        behaviour, content = _standardised(behaviour, counted), _standardised(content, counted)
        return behaviour + known * self.share * (content - behaviour)


def _standardised(scores: Array, counted: Array) -> Array:
    """Scores [B, I] with mean 0 and deviation 1, or all 0, in each row where ``counted`` is 1."""
    count = jnp.maximum(counted.sum(1, keepdims=True), 1)
    centred = scores - (counted * scores).sum(1, keepdims=True) / count
    deviation = jnp.sqrt((counted * centred**2).sum(1, keepdims=True) / count)
    return centred / jnp.where(deviation > 0, deviation, 1)


Model = Ensemble
