"""LIRDRec: items made of content alone, users who weigh its channels, at first by a network."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph, neighbours, spectral
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender


class LIRDRec(Recommender):
    """Modality channels and one of their joint spectrum, fused by progressive weight copying.

    Zhou et al., "Learning Item Representations Directly from Multimodal Features for Effective
    Recommendation", 2025, https://arxiv.org/abs/2505.04960.

    A user weighs the channels by ``softmax(share * network + (1 - share) * own)``. In epoch e the
    network's share is multiplied by ``decay_base ** e`` and both are scaled back to sum to 1; at
    its start each user's own weights become what the fusion came to in the last step before.
    Items have no id table, so ``table.item`` does not apply.

    Follows the authors' code: the cosine transform runs along the features only, where the paper
    has one over the items too, and the transformed modalities stand side by side; the copied
    weights have been through the softmax already, those they replace had not; the regulariser
    takes all users and items. The own weights are a parameter plus what copying added to it, for
    only losses change parameters: the same, but that ``optim.weight_decay`` acts on the first
    summand alone. Any number of modalities; an item without a feature row has no part of that
    channel. The spectra are kept beside the features, and all items are projected in each step.

    Attributes:
      dim: D, of each channel.
      layers: propagation steps over the user-item graph.
      item_layers: propagation steps over the item graph.
      knn_k: K, neighbours of an item in the graph of one modality, itself among them.
      modality_weights: ``(name, weight)`` of each graph that is summed; empty gives each the same
        share of 1. The authors use ``(("image", 0.1), ("text", 0.9))``.
      reg_weight: weight of the regulariser.
      network_share: the network's share before the first epoch, below 1 (``decay_weight`` in
        their code).
      decay_base: how fast it fades.
    """

    dim: int = 64
    layers: int = 2
    item_layers: int = 1
    knn_k: int = 10
    modality_weights: tuple[tuple[str, float], ...] = ()
    reg_weight: float = 1e-3
    network_share: float = 0.9
    decay_base: float = 0.9

    task = "pairwise"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        data.need_features("LIRDRec")
        weights = hyper.get("modality_weights", cls.modality_weights)
        size = (data.spec.num_users, data.spec.num_items)
        graphs = {
            "train": graph.bipartite(data.train.user, data.train.item, *size),
            "item": neighbours.item_graph(data, hyper.get("knn_k", cls.knn_k), weights),
        }
        spectra = {_spectrum(n): spectral.dct(jnp.asarray(x)) for n, x in data.features.items()}
        return Context.of(data, graphs=graphs, tables=spectra)

    def setup(self):
        users, names = self.spec.num_users, self.spec.modalities
        self.channels = (*names, "shared")
        channel_init = nn.initializers.normal((2.0 / (users + self.dim)) ** 0.5)
        self.user = self.table("user", len(self.channels) * self.dim, channel_init)
        self.own = self.param("own", layers.xavier_normal, (users, len(self.channels)))
        self.content = {n: layers.ContentVectors(self.dim, 4 * self.dim) for n in self.channels}
        self.network = {n: WeightNetwork(self.dim // 4) for n in self.channels}

    def refresh(self, ctx: Context) -> Context:
        copied = {
            "epoch": self._kept("epoch") + 1,
            "copied": self._kept("weight") - self.own,
        }
        return ctx.replace(tables={**ctx.tables, **copied})

    def represent(self, ctx: Context) -> dict[str, Array]:
        user, item, weight = self._propagate(ctx)
        return {"user": user, "item": item, "channel_weight": weight}

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        users, items, weight = self._propagate(ctx)
        self._keep(ctx, weight)
        rows = jnp.concatenate([users, items])[batch.nodes(self.spec.num_users)]
        user, item, negative = batch.split(rows)
        parts = {
            "bpr": losses.bpr((user * item).sum(-1), (user * negative).sum(-1), batch.weight),
            "reg": jnp.square(users).mean() + jnp.square(items).mean(),
        }
        return parts["bpr"] + self.reg_weight * parts["reg"], parts

    def score(self, rep: dict[str, Array], query: Query) -> Array:
        return rep["user"][query.user] @ rep["item"].T

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """Mean weight [M + 1] that users give the modalities, in order, and the shared channel."""
        return {"user_channel_weight": rep["channel_weight"].mean(0)}

    def _propagate(self, ctx: Context) -> tuple[Array, Array, Array]:
        """Users [U, C x D], items [I, C x D] and the users' weights [U, C]."""
        names = self.spec.modalities
        parts = [self.content[n]([ctx.features[n]], ctx.present[n]) for n in names]
        spectra = [ctx.tables[_spectrum(n)] for n in names]
        something = jnp.stack([ctx.present[n] for n in names]).any(axis=0)
        channels = jnp.stack([*parts, self.content["shared"](spectra, something)], axis=1)

        nodes = jnp.concatenate([self.user.reshape(-1, *channels.shape[1:]), channels])
        nodes = losses.unit(nodes).reshape(len(nodes), -1)
        nodes = graph.mean_propagate(ctx.graphs["train"], nodes, self.layers) * (self.layers + 1)
        users, items = jnp.split(nodes, [self.spec.num_users])
        users = users.reshape(-1, *channels.shape[1:])  # [U, C, D]
        weight = self._weights(users, ctx)
        smooth = items
        for _ in range(self.item_layers):
            smooth = graph.matmul(ctx.graphs["item"], smooth)
        return (users * weight[..., None]).reshape(len(users), -1), items + smooth, weight

    def _weights(self, users: Array, ctx: Context) -> Array:
        """Weights [U, C] of the channels of users [U, C, D]."""
        read = lambda name: ctx.tables[name] if name in ctx.tables else self._kept(name)
        epoch = read("epoch").astype(jnp.float32)
        fading = self.network_share * self.decay_base ** (epoch * (epoch + 1) / 2)
        share = fading / (fading + 1.0 - self.network_share)
        network = [self.network[n](users[:, c]) for c, n in enumerate(self.channels)]
        network = jnp.concatenate(network, axis=1)
        return nn.softmax(share * network + (1.0 - share) * (self.own + read("copied")))

    def _kept(self, name: str) -> Array:
        """What the fusion keeps from epoch to epoch: ``epoch``, ``copied`` and last ``weight``."""
        fresh = {"epoch": jnp.int32(0), "copied": jnp.zeros_like(self.own), "weight": self.own}
        return self.get_variable("fusion", name, fresh[name])

    def _keep(self, ctx: Context, weight: Array) -> None:
        if not self.is_mutable_collection("fusion"):
            return
        new = {n: ctx.tables.get(n, self._kept(n)) for n in ("epoch", "copied")}
        new["weight"] = self._kept("weight") if self.is_initializing() else weight
        for name, value in new.items():
            dtype = jnp.int32 if name == "epoch" else jnp.float32
            self.put_variable("fusion", name, value.astype(dtype))


class WeightNetwork(nn.Module):
    """One number for each vector, by a hidden layer with leaky ReLU.

    Attributes:
      hidden: width of the hidden layer.
    """

    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, 1] of x [B, D]."""
        return _dense(1, nn.leaky_relu(_dense(self.hidden, x)))


def _dense(width: int, x: Array) -> Array:
    bias_init = layers.uniform_bias(x.shape[1])
    return nn.Dense(width, kernel_init=layers.uniform_fan_in, bias_init=bias_init)(x)


def _spectrum(name: str) -> str:
    """The table that holds the transformed features of a modality."""
    return f"spectrum_{name}"


Model = LIRDRec
