"""TIGER: an encoder-decoder Transformer that writes the codes of the next item."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax import layers, losses, t5
from mmrec_jax.ops import attention, beam
from mmrec_jax.tasks import semantic
from mmrec_jax.tasks.semantic import Batch
from mmrec_jax.types import Array, Context, Dataset, Query, Recommender

_CHUNK = 64  # items that the exhaustive scorer takes at a time


class TIGER(Recommender):
    """Semantic codes of a user's items go in, those of the next item come out.

    Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023,
    https://arxiv.org/abs/2305.05065. There is no code of the authors. Reconstructed: the paper's
    T5 (4 + 4 layers, 6 heads of 64, width 128, inner width 1024, dropout 0.1) over a token of the
    hashed user and the codes of up to 20 items, each level with a vocabulary of its own. The T5 is
    that of Hugging Face, as public reconstructions use it (XiaoLongtaoo/TIGER and the TIGER of
    HonghuiBao2000/LETTER): RMS norms before each layer, no biases, unscaled attention with learned
    biases for distances, the output tied to the embeddings. Those are stored divided by sqrt(D),
    as Adam, unlike the Adafactor of T5, takes no larger steps for larger parameters. As in
    snap-research/GRID, a code is predicted among those of its level and not among all tokens, and
    there is no end token.

    The paper's training takes every position of a history as one example. Instead, ``causal``
    keeps the encoder from looking ahead, so that one pass over a history serves all its positions;
    it is no longer T5's encoder, but learns from several times as many targets in the same time.
    Without it each epoch takes one position of each history, drawn anew.

    Lists come from a beam search among the codes that items have, where public reconstructions
    search all codes. ``score`` computes every item's likelihood, to compare the beam with.

    Attributes:
      dim: D.
      layers: of the encoder, and of the decoder.
      heads, head_dim: of attention.
      hidden: inner width of the feed-forward layers.
      dropout: rate at embeddings, attention weights, and in and after every layer.
      user_tokens: what users are hashed to.
      causal: whether the encoder looks back only.
      beams: prefixes kept at each level of the search; a longer list takes as many as it is long.
    """

    dim: int = 128
    layers: int = 4
    heads: int = 6
    head_dim: int = 64
    hidden: int = 1024
    dropout: float = 0.1
    user_tokens: int = 2000
    causal: bool = False
    beams: int = 50

    task = "semantic"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        return Context(graphs={"trie": beam.Trie.of(semantic.codes_of(data))})

    def setup(self):
        self.levels = len(self.spec.codes)
        self.offsets = np.cumsum([0, *self.spec.codes]).astype(np.int32)  # of levels, in the table
        normal = nn.initializers.normal
        rows = self.offsets[-1] + self.user_tokens
        near = normal(self.dim**-0.5)
        self.token = self.param("token", near, (int(rows), self.dim))
        self.start = self.param("start", near, (self.dim,))
        self.encoder_bias = self.param("encoder_bias", near, (32, self.heads))
        self.decoder_bias = self.param("decoder_bias", near, (self.levels, self.heads))
        sizes = self.dim, self.heads, self.head_dim, self.hidden, self.dropout
        self.encoder = [t5.EncoderLayer(*sizes) for _ in range(self.layers)]
        self.decoder = [t5.DecoderLayer(*sizes) for _ in range(self.layers)]
        self.encoder_norm, self.decoder_norm = t5.norm(), t5.norm()
        self.drop = layers.Dropout(self.dropout)

    def represent(self, ctx: Context) -> beam.Trie:
        return ctx.graphs["trie"]

    def loss(self, batch: Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        if not self.causal:
            batch = semantic.one_prefix(self.make_rng("dropout"), batch)
        tokens = self.tokens(batch.user, batch.codes)
        tokens = jnp.where(batch.mask.any(axis=1)[:, None], tokens, -1)
        value = self._packed_if_shorter(tokens, batch)
        return value, {"ce": value}

    def score(self, rep: beam.Trie, query: Query) -> Array:
        """Log-probability of every item's codes, [B, I]: the whole catalogue, teacher-forced."""
        memory, seen = self.remember(rep, query)
        count, size = rep.codes.shape[0], query.user.shape[0]

        def likelihood(model, memory, codes):
            codes = jnp.broadcast_to(codes[None], (size, *codes.shape))
            ahead = jnp.broadcast_to(seen, (size, codes.shape[1], seen.shape[-1]))
            states, _ = model.decode(model.shifted(codes), None, memory, ahead, True)
            chosen = [
                jnp.take_along_axis(model.logs(level, states[:, :, level]), codes[..., [level]], 2)
                for level in range(model.levels)
            ]
            return memory, jnp.concatenate(chosen, axis=2).sum(axis=2)  # [B, chunk]

        chunks = jnp.pad(rep.codes, ((0, -count % _CHUNK), (0, 0))).reshape(-1, _CHUNK, self.levels)
        scan = nn.scan(likelihood, variable_broadcast="params", split_rngs={"params": False})
        _, scores = scan(self, memory, chunks)  # [chunks, B, chunk]
        return jnp.moveaxis(scores, 0, 1).reshape(size, -1)[:, :count]

    def rank(self, rep: beam.Trie, query: Query, k: int) -> tuple[Array, Array]:
        memory, seen = self.remember(rep, query)

        def advance(level, past, code):
            if code is None:
                x = jnp.broadcast_to(self.start, (query.user.shape[0], 1, 1, self.dim))
            else:
                x = self.token[code + self.offsets[level - 1]][:, :, None]  # [B, W, 1, D]
            ahead = jnp.broadcast_to(seen, (*x.shape[:2], seen.shape[-1]))
            states, past = self.decode(x, past, memory, ahead, True)
            return self.logs(level, states[:, :, 0]), past

        return beam.search(advance, None, rep, query, self.beams, k)

    def remember(self, rep: beam.Trie, query: Query) -> tuple[list, Array]:
        """What the decoder sees of the histories of ``query``: memory, and where it is known."""
        tokens = self.tokens(query.user, semantic.codes_at(rep.codes, query.sequence))
        memory = self.encode(tokens, attention.padded(tokens), deterministic=True)
        return memory, (tokens >= 0)[:, None]

    def tokens(self, user: Array, codes: Array) -> Array:
        """The user and the codes [B, L, C] of a history, int32 [B, 1 + L * C], padded by -1."""
        hashed = (user.astype(jnp.uint32) * np.uint32(2654435761)) >> 16
        name = (hashed % self.user_tokens).astype(jnp.int32) + self.offsets[-1]
        items = jnp.where(codes >= 0, self._rows(codes), -1).reshape(len(user), -1)
        first = items.shape[1] - jnp.sum(items >= 0, axis=1)  # of 1 + L * C, the user's place
        tokens = jnp.pad(items, ((0, 0), (1, 0)), constant_values=-1)
        return tokens.at[jnp.arange(len(user)), first].set(name)

    def encode(self, tokens: Array, layout: attention.Layout, deterministic: bool) -> list:
        """Keys and values [N, keys, heads, width] of each decoder layer, of tokens in a layout."""
        length = layout.slot.shape[1]
        known = layout.visible() if self.causal else layout.known[:, None, :]
        keys = known.shape[2]
        distance = np.arange(keys)[None] - np.arange(keys - length, keys)[:, None]
        bias = self.encoder_bias[t5.buckets(distance)].transpose(2, 0, 1)[None]
        bias = jnp.where(known[:, None], bias, t5.NEVER)
        x = self.drop(self.token[layout.take(tokens, 0)] * self.dim**0.5, deterministic)
        for layer in self.encoder:
            x = layer(x, bias, layout, deterministic)
        x = self.drop(self.encoder_norm(x), deterministic)
        return [jax.tree.map(layout.reach, layer.memory(x)) for layer in self.decoder]

    def shifted(self, codes: Array) -> Array:
        """What the decoder reads to write ``codes`` [B, P, C]: the start and all but the last."""
        start = jnp.broadcast_to(self.start, (*codes.shape[:2], 1, self.dim))
        return jnp.concatenate([start, self.token[self._rows(codes)[:, :, :-1]]], axis=2)

    def decode(
        self, x: Array, past: list | None, memory: list, seen: Array, deterministic: bool
    ) -> tuple[Array, list]:
        """States [N, P, T, D] of T tokens of P codes that are being written, and the new past.

        Args:
          x: embeddings [N, P, T, D].
          past: keys and values of the tokens before, by layer; None where there are none.
          memory: from :meth:`encode`.
          seen: bool [N, P, keys], the part of the memory that belongs to each code.
          deterministic: whether nothing is dropped.
        """
        done = past[0][0].shape[2] if past else 0
        distance = np.arange(done, done + x.shape[2])[:, None] - np.arange(done + x.shape[2])[None]
        bias = self.decoder_bias[np.maximum(distance, 0)].transpose(2, 0, 1)
        bias = jnp.where((distance >= 0)[None], bias, t5.NEVER)[None]
        ahead = jnp.where(jnp.repeat(seen, x.shape[2], axis=1), 0.0, t5.NEVER)[:, None]
        x, present = self.drop(x * self.dim**0.5, deterministic), []
        for number, layer in enumerate(self.decoder):
            before = past[number] if past else None
            x, kept = layer(x, before, memory[number], bias, ahead, deterministic)
            present.append(kept)
        return self.drop(self.decoder_norm(x), deterministic), present

    def _rows(self, codes: Array) -> Array:
        """Rows of the table for codes [B, ..., C]."""
        return codes + self.offsets[:-1].reshape([1] * (codes.ndim - 1) + [-1])

    def logs(self, level: int, states: Array) -> Array:
        """Log-probabilities [..., K] of the codes of a level."""
        table = self.token[self.offsets[level] : self.offsets[level + 1]]
        return jax.nn.log_softmax((states @ table.T).astype(jnp.float32))

    def _packed_if_shorter(self, tokens: Array, batch: Batch) -> Array:
        """The loss, the tokens packed end to end where that saves work and they fit."""
        full = lambda self: self._loss(batch, tokens, attention.padded(tokens))
        short = lambda self: self._loss(batch, tokens, attention.packed(tokens, batch.blocks))
        if not self.causal or 2 * batch.blocks > tokens.shape[0] or self.is_initializing():
            return full(self)
        return nn.cond(jnp.sum(tokens >= 0) <= batch.blocks * tokens.shape[1], short, full, self)

    def _loss(self, batch: Batch, tokens: Array, layout: attention.Layout) -> Array:
        memory = self.encode(tokens, layout, deterministic=False)
        length = tokens.shape[1]
        at_end = lambda x, fill: (
            jnp.full((*tokens.shape, *x.shape[2:]), fill).at[:, self.levels :: self.levels].set(x)
        )  # an item is predicted from the last code of the one before
        weight = layout.take(at_end(batch.mask, 0.0), 0.0)
        most = -(-length // self.levels) if self.causal else 1
        place = jnp.argsort(weight <= 0, axis=1, stable=True)[:, :most]  # [N, P]
        slot = jnp.take_along_axis(layout.slot, place, axis=1)
        target = at_end(batch.targets, 0).reshape(-1, self.levels)[jnp.maximum(slot, 0)]
        target = jnp.maximum(target, 0)
        key = layout.reach(layout.slot, -1)[:, None, :]
        seen = (key // length == slot[..., None] // length) & (key <= slot[..., None])
        states, _ = self.decode(self.shifted(target), None, memory, seen, False)
        chosen = [
            jnp.take_along_axis(self.logs(n, states[:, :, n]), target[..., [n]], 2)[..., 0]
            for n in range(self.levels)
        ]
        weight = jnp.take_along_axis(weight, place, axis=1)
        return losses.masked_mean(-sum(chosen) / self.levels, weight)


Model = TIGER
