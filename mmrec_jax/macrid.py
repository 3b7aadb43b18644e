"""Rows of a matrix in parts that each speak of one prototype: what DGVAE has two of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmrec_jax import layers, losses
from mmrec_jax.ops import graph
from mmrec_jax.types import Array


class MacridVAE(nn.Module):
    """A variational auto-encoder of rows over S things, in K parts, each about one prototype.

    Ma et al., "Learning Disentangled Representations for Recommendation", NeurIPS 2019,
    https://arxiv.org/abs/1910.14238, with the encoder of DGVAE: one linear layer.

    Attributes:
      size: S.
      dim: D.
      prototypes: K.
      temperature: of the softmax over prototypes, and of the decoder's.
      noise: deviation of the noise around the mean.
      dropout: share of the input that is dropped.
    """

    size: int
    dim: int
    prototypes: int
    temperature: float
    noise: float
    dropout: float

    def setup(self):
        self.thing = self.param("thing", layers.xavier_normal, (self.size, self.dim))
        self.prototype = self.param("prototype", layers.xavier_normal, (self.prototypes, self.dim))
        self.kernel = self.param("kernel", layers.xavier_normal, (self.size, 2 * self.dim))
        self.bias = self.param("bias", nn.initializers.normal(0.01), (2 * self.dim,))
        self.drop = layers.Dropout(self.dropout)

    def log_share(self, gumbel: Array | None = None) -> Array:
        """Log of how much each thing belongs to each prototype, [S, K]."""
        cosine = losses.unit(self.thing) @ losses.unit(self.prototype).T
        logits = cosine / self.temperature
        return jax.nn.log_softmax(logits if gumbel is None else logits + gumbel)

    def encode(self, x: Array, log_share: Array, smooth: graph.Adjacency | None, train: bool):
        """Means of length one and log-variances [K, B, D] of rows, ``x`` [S, B].

        Half of the input is propagated twice over ``smooth``.
        """
        part = x[:, None] * jnp.exp(log_share)[:, :, None]  # [S, K, B]
        part *= jax.lax.rsqrt(jnp.maximum(jnp.square(part).sum(0, keepdims=True), 1e-24))
        kernel, flat = self.kernel, part.reshape(self.size, -1)
        if smooth is not None and train:
            around = graph.matmul(smooth, graph.matmul(smooth, flat))
            flat = (flat + around) / 2
        elif smooth is not None:  # without dropout it is cheaper to propagate the layer instead
            back = graph.Adjacency(smooth.transpose or smooth.forward, smooth.forward)
            kernel = (kernel + graph.matmul(back, graph.matmul(back, kernel))) / 2
        flat = self.drop(flat, deterministic=not train)
        hidden = (flat.T @ kernel + self.bias[None]).reshape(self.prototypes, -1, 2 * self.dim)
        mean, negative = jnp.split(hidden.astype(jnp.float32), 2, axis=-1)
        return losses.unit(mean), -negative

    def sample(self, mean: Array, log_variance: Array, normal: Array | None = None) -> Array:
        """Latent vectors [K, B, D] of length one; ``normal`` of that shape is standard noise."""
        if normal is not None:
            mean = mean + self.noise * normal * jnp.exp(0.5 * log_variance)
        return losses.unit(mean)

    def decode(self, latent: Array, log_share: Array) -> Array:
        """Log-probabilities of all things, [B, S], of latent vectors [K, B, D]."""
        thing = losses.unit(self.thing)
        logits = (vector @ thing.T / self.temperature for vector in latent)
        parts = [logit + share[None] for logit, share in zip(logits, log_share.T, strict=True)]
        return jax.nn.log_softmax(jax.nn.logsumexp(jnp.stack(parts), axis=0))


def divergence(log_variance: Array) -> Array:
    """KL divergence [B] of Gaussians [K, B, D] from the standard one, but for the mean's term."""
    return -0.5 * (1 + log_variance - jnp.exp(log_variance)).sum((0, 2))
