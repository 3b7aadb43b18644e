"""AlphaRec: language-model vectors of the items instead of ids, projected and propagated."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, sampling
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError


class AlphaRec(Recommender):
    """A perceptron over frozen item vectors and their means by user, LightGCN, sampled softmax.

    Sheng et al., "Language Representations Can be What Recommenders Need: Findings and
    Potentials", ICLR 2025, https://arxiv.org/abs/2407.05441.

    Follows the authors' PyTorch code. Its first layer maps the mean of a user's items; here the
    items are mapped and then averaged, which is the same and spares the users' U x F x H
    operations; the items' I x F x H remain, in each step, as propagation reads them all. Several
    modalities are concatenated, each with rows of length one, as the language models' vectors
    have; a missing row adds nothing, to the means of users neither. Negatives are drawn anew in
    the loss; the batch's own is not read. The authors draw users evenly, and for each one of their
    items; here an epoch passes through all interactions.

    Attributes:
      modalities: which features are read; none for all.
      dim: D.
      hidden: H, width of the perceptron; 0 for a linear map, the paper's ablation. The authors
        keep F x H at 4.7 million.
      layers: propagation steps.
      negatives: items drawn for each interaction, none of them one of the user's in training.
      temperature: of the softmax over cosines.
    """

    modalities: tuple[str, ...] = ()
    dim: int = 64
    hidden: int = 1536
    layers: int = 2
    negatives: int = 256
    temperature: float = 0.15

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        train, size = data.train, (data.spec.num_users, data.spec.num_items)
        names = _names(data.spec.modalities, hyper.get("modalities", cls.modalities))
        graphs = {
            "train": graph.bipartite(train.user, train.item, *size),
            "mean": _user_means(data, names),
            "positives": sampling.Positives.of(train, *size),
        }
        return Context(
            features={n: losses.unit(jnp.asarray(data.features[n])) for n in names},
            present={n: jnp.asarray(data.present[n]) for n in names},
            graphs=graphs,
        )

    def setup(self):
        names = _names(self.spec.modalities, self.modalities)
        fan_in = sum(width for name, width in self.spec.feature_dims if name in names)
        init = layers.uniform_bias(fan_in)  # of a kernel too: PyTorch draws both alike
        width = self.hidden or self.dim
        self.content = {
            n: layers.ProjectRows(width, use_bias=False, kernel_init=init) for n in names
        }
        if self.hidden:
            self.bias = self.param("bias", init, (self.hidden,))
            out = layers.uniform_bias(self.hidden)
            self.out = nn.Dense(self.dim, kernel_init=out, bias_init=out)

    def represent(self, ctx: Context) -> dict[str, Array]:
        nodes = self._directions(ctx)
        return {"user": nodes[: self.spec.num_users], "item": nodes[self.spec.num_users :]}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        users = jnp.broadcast_to(batch.user[:, None], (batch.user.size, self.negatives))
        drawn = sampling.negatives(self.make_rng("dropout"), users, ctx.graphs["positives"])
        return self.drawn_loss(batch, ctx, drawn)

    def drawn_loss(
        self, batch: Batch, ctx: Context, negatives: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The loss with the given ``negatives``, items int32 [B, K]."""
        user, item = jnp.split(self._directions(ctx), [self.spec.num_users])
        user = graph.take_rows(user, batch.user)
        positive = jnp.sum(user * graph.take_rows(item, batch.item), axis=-1)
        others = graph.take_rows(item, negatives.reshape(-1)).reshape(*negatives.shape, -1)
        negative = jnp.einsum("bd,bkd->bk", user, others)
        scores = positive / self.temperature, negative / self.temperature
        loss = losses.sampled_softmax(*scores, batch.weight)
        return loss, {"softmax": loss}

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def _directions(self, ctx: Context) -> Array:
        """Propagated vectors of users and items, [N, D], each of length one."""
        items = [project((ctx.features[name],)) for name, project in self.content.items()]
        users = graph.matmul(ctx.graphs["mean"], jnp.concatenate(items))
        nodes = jnp.concatenate([users, sum(items)])
        if self.hidden:
            nodes = self.out(nn.leaky_relu(nodes + self.bias[None]))
        return losses.unit(graph.mean_propagate(ctx.graphs["train"], nodes, self.layers))


def _names(known: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The modalities to read.

    Raises:
      UserError: if there are none, or not those wanted.
    """
    names = tuple(wanted) or known
    missing = [name for name in names if name not in known]
    if missing or not names:
        what = f"features named {missing[0]!r}" if missing else "item features"
        there = f"there are {', '.join(known)}" if known else "give some (config.data.features)"
        raise UserError(f"AlphaRec has no ids and finds no {what}; {there}")
    return names


def _user_means(data: Dataset, names: tuple[str, ...]) -> graph.Adjacency:
    """[U, M I]: means over a user's items, by modality, of those whose row is there."""
    user, item = data.train.user, data.train.item
    rows, cols, weights = [], [], []
    for number, name in enumerate(names):
        there = data.present[name][item]
        count = np.bincount(user[there], minlength=data.spec.num_users)
        rows.append(user[there])
        cols.append(item[there] + number * data.spec.num_items)
        weights.append(1.0 / count[user[there]])
    shape = (data.spec.num_users, len(names) * data.spec.num_items)
    return graph.from_edges(*map(np.concatenate, (rows, cols, weights)), shape)


Model = AlphaRec
