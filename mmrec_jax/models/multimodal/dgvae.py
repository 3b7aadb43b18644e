"""DGVAE: a user's items and the words of those items, in parts that speak of the same interests."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmrec_jax import layers, losses, macrid
from mmrec_jax.ops import bag, graph, item_words, neighbours
from mmrec_jax.tasks.rows import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender, UserError

_SHOWN = 8  # most words of a prototype that ``explain`` names


class DGVAE(Recommender):
    """Two auto-encoders, of a user's items and of their words, that read one another's parts.

    Zhou and Miao, "Disentangled Graph Variational Auto-Encoder for Multimodal Recommendation with
    Interpretability", IEEE TMM 2024, https://arxiv.org/abs/2402.16110; their code
    github.com/enoche/DGVAE.

    What is reconstructed: the row of a user's items (multinomial, each item once), and the user's
    words: those of the items added up, each weighed by ``1 + log((1 + U) / (1 + n))`` with n users
    who have it, then scaled to length one. Words are columns of ``words``, feature modalities
    whose entries are word weights of an item; counts of ``--encoder=words`` have names. In other
    features a "word" is a column, shifted so that its least entry is 0, and means what that means.
    The authors take words that at least 5 and at most 60 % of the users have, from titles, brands,
    categories, descriptions and captions of images; ``--encoder=words`` takes them by items.

    Follows the authors' code: encoders are one linear layer; words are not smoothed by a graph;
    the divergence leaves the mean out, which has length one; latent vectors of both sides decode
    their sum. Left out are their norm regularisers, whose weights are 0. The divergence's weight
    counts steps from 0, theirs from 1. An item without features has no neighbours and no words.

    Attributes:
      dim: D.
      prototypes: K, at least 2.
      words: names of the modalities that are words; empty for all.
      knn_k: neighbours of an item in the graph of one modality, itself among them.
      modality_weights: ``(name, weight)`` of each graph that is summed; empty gives each the same.
        The authors use ``(("image", 0.04), ("text", 0.96))``.
      temperature: of prototypes and decoders.
      noise: deviation of the noise around the mean.
      dropout: share of the input that is dropped.
      anneal_cap: largest weight of the KL divergences.
      anneal_steps: steps after which it would be 1 without a cap; 0 starts at the cap.
      text_weight: weight of the words' loss.
      mutual_weight: weight of the regulariser that has both sides' parts tell of one another.
    """

    dim: int = 64
    prototypes: int = 4
    words: tuple[str, ...] = ()
    knn_k: int = 10
    modality_weights: tuple[tuple[str, float], ...] = ()
    temperature: float = 0.1
    noise: float = 0.075
    dropout: float = 0.5
    anneal_cap: float = 0.2
    anneal_steps: int = 20_000
    text_weight: float = 0.2
    mutual_weight: float = 0.2

    task = "rows"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        if (count := hyper.get("prototypes", cls.prototypes)) < 2:
            raise UserError(f"model.prototypes is {count}; DGVAE tells at least 2 apart")
        weights = hyper.get("modality_weights", cls.modality_weights)
        items = neighbours.item_graph(data, hyper.get("knn_k", cls.knn_k), weights)
        # Rows of items times the matrix are its transpose times columns.
        items = graph.Adjacency(items.transpose or items.forward, items.forward)
        names = item_words.chosen(data.spec, hyper.get("words", cls.words))
        words = jnp.asarray(item_words.weights(data, names))
        return Context(graphs={"item": items}, tables={"words": words})

    def setup(self):
        width = dict(self.spec.feature_dims)
        shared = self.dim, self.prototypes, self.temperature, self.noise, self.dropout
        self.rating = macrid.MacridVAE(self.spec.num_items, *shared)
        names = item_words.chosen(self.spec, self.words)
        self.text = macrid.MacridVAE(sum(width[n] for n in names), *shared)
        self.annealing = layers.Annealing(self.anneal_cap, self.anneal_steps)

    def represent(self, ctx: Context) -> dict[str, Array | graph.Adjacency]:
        return {
            "item": self.rating.thing,
            "smooth": ctx.graphs["item"],
            "words": ctx.tables["words"],
        }

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(self.make_rng("dropout"), 4)
        sizes = (self.rating.size, self.text.size)
        shape = (self.prototypes, batch.user.shape[0], self.dim)
        gumbel = [jax.random.gumbel(k, (s, shape[0])) for k, s in zip(keys[:2], sizes, strict=True)]
        normal = [jax.random.normal(k, shape) for k in keys[2:]]
        return self.bound(batch, ctx, gumbel, normal)

    def bound(
        self, batch: Batch, ctx: Context, gumbel: list[Array], normal: list[Array]
    ) -> tuple[Array, dict[str, Array]]:
        """The loss, given Gumbel noise [S, K] and normal noise [K, B, D] of items and words."""
        size = batch.user.shape[0]
        inputs = self._rows(batch.row, batch.item, size, ctx.tables["words"])
        given = self._shares(gumbel)
        codes = self._encode(inputs, given, ctx.graphs["item"], train=True)
        latents = [v.sample(*c, n) for v, c, n in zip(self._sides, codes, normal, strict=True)]
        crossed = attend(latents[1], latents[0]), attend(latents[0], latents[1])
        rating, text = (
            vae.decode(crossed[0] + crossed[1], log_share)
            for vae, log_share in zip(self._sides, given, strict=True)
        )
        mean = lambda values: losses.masked_mean(values, batch.weight)
        parts = {
            "rating": -mean((rating * inputs[0].T).sum(-1)),
            "text": -mean((text * inputs[1].T).sum(-1)),
            "rating_divergence": mean(macrid.divergence(codes[0][1])),
            "text_divergence": mean(macrid.divergence(codes[1][1])),
            "mutual": mean(mutual(*crossed)),
        }
        anneal = self.annealing()
        total = parts["rating"] + anneal * parts["rating_divergence"]
        total += self.text_weight * (parts["text"] + anneal * parts["text_divergence"])
        return total + self.mutual_weight * parts["mutual"], parts

    def score(self, rep: dict[str, Array | graph.Adjacency], query: Query) -> Array:
        latent, share, _ = self._read(rep, query)
        return self.rating.decode(latent, share)

    def word_scores(self, rep: dict[str, Array | graph.Adjacency], query: Query) -> Array:
        """Log-probabilities [B, W] of the words of each query's user: why it ranks as it does."""
        latent, _, share = self._read(rep, query)
        return self.text.decode(latent, share)

    def explain(self, rep: dict[str, Array], ctx: Context) -> dict[str, Array]:
        """What each prototype is about: its share of items and words, and its leading words.

        ``prototype_words`` [K, 8] are columns of the words, by the prototype's share of a word
        times the word's weight over all items; the provenance of ``--encoder=words`` names them.
        ``prototype_cosine`` [K, K] tells whether the prototypes of items are apart.
        """
        item_share, word_share = map(jnp.exp, self._shares((None, None)))
        leading = (word_share * ctx.tables["words"].sum(axis=0)[:, None]).T
        prototype = losses.unit(self.rating.prototype)
        count = min(_SHOWN, 64 // self.prototypes, leading.shape[1])
        return {
            "prototype_items": item_share.mean(0),
            "prototype_word_share": word_share.mean(0),
            "prototype_cosine": prototype @ prototype.T,
            "prototype_words": jax.lax.top_k(leading, count)[1],
        }

    def _read(self, rep, query: Query) -> tuple[Array, Array, Array]:
        """Latent vectors [K, B, D] without noise, and the shares of items and words."""
        size = query.user.shape[0]
        inputs = self._rows(query.history_row, query.history_item, size, rep["words"])
        given = self._shares((None, None))
        codes = self._encode(inputs, given, rep["smooth"], train=False)
        rating, text = (v.sample(*code) for v, code in zip(self._sides, codes, strict=True))
        return attend(text, rating) + attend(rating, text), given[0], given[1]

    @property
    def _sides(self) -> tuple[macrid.MacridVAE, macrid.MacridVAE]:
        return self.rating, self.text

    def _shares(self, gumbel) -> list[Array]:
        return [vae.log_share(g) for vae, g in zip(self._sides, gumbel, strict=True)]

    def _encode(self, inputs, shares, smooth, train):
        graphs = (smooth, None)
        each = zip(self._sides, inputs, shares, graphs, strict=True)
        return [vae.encode(x, share, g, train) for vae, x, share, g in each]

    def _rows(self, row: Array, item: Array, size: int, words: Array) -> tuple[Array, Array]:
        """Users' items [I, B] and words [W, B] of pairs of row and item."""
        once = bag.distinct(row, item, size).astype(jnp.float32)
        items = (
            jnp.zeros((self.spec.num_items, size), jnp.float32).at[item, row].set(1, mode="drop")
        )
        return items, losses.unit(bag.embedding_bag(words, row, item, once, size)).T


def attend(value: Array, query: Array) -> Array:
    """Of each user's parts ``value`` [K, B, D], what each part of ``query`` [K, B, D] asks for.

    Weights are ``tanh(<q, v>)``, times a sigmoid of how much nearer than the mean part v is to q,
    by the sum of absolute differences.
    """
    inner = jnp.tanh(jnp.einsum("kbd,lbd->bkl", query, value))
    near = -jnp.abs(query[:, None] - value[None]).sum(-1).transpose(2, 0, 1)  # [B, K, K]
    gate = jax.nn.sigmoid(near - near.mean(axis=-1, keepdims=True))
    return jnp.einsum("bkl,lbd->kbd", inner * gate, value)


def mutual(first: Array, second: Array) -> Array:
    """A bound of what like parts of both [K, B, D] do not tell of one another, [B].

    The estimate by Jensen and Shannon's divergence: like parts are pairs, unlike ones are not.
    """
    inner = jnp.einsum("kbd,lbd->bkl", first, second)
    like = jnp.eye(len(first))[None]
    pairs = (jax.nn.softplus(-inner) * like).sum((1, 2)) / len(first)
    others = (jax.nn.softplus(inner) * (1 - like)).sum((1, 2)) / (len(first) * (len(first) - 1))
    return pairs + others


Model = DGVAE
