"""RQ-VAE: an auto-encoder of item features whose bottleneck is a few discrete codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mmrec_jax import layers, losses
from mmrec_jax.ops import quantize
from mmrec_jax.tasks import codes
from mmrec_jax.types import Array, Context, Dataset, Recommender


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Attributes:
      widths: of the layers' outputs.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x`` [..., F] to [..., widths[-1]]."""
        for n, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=layers.xavier_normal)(nn.relu(x) if n else x)
        return x


class RQVAE(Recommender):
    """Encoder, residual quantisation over C levels with straight-through gradients, decoder.

    Lee et al., "Autoregressive Image Generation using Residual Quantization", CVPR 2022,
    https://arxiv.org/abs/2203.01941; for items Rajput et al., "Recommender Systems with Generative
    Retrieval" (TIGER), NeurIPS 2023, https://arxiv.org/abs/2305.05065, and Zheng et al., "Adapting
    Large Language Models by Integrating Collaborative Semantics" (LC-Rec), ICDE 2024,
    https://arxiv.org/abs/2311.09049, whose losses (means over entries and levels) these are.

    Unlike LC-Rec's code: the k-means start sees all items, not the first batch; codes that nothing
    chooses are revived; a codebook is a constant, which start and revival set, plus a learned
    displacement, so that a step of the optimiser leaves both alone and weight decay pulls towards
    the start; features are scaled (``tasks.codes.context``).

    Attributes:
      sizes: codes of every level.
      layers: widths of the encoder's hidden layers; the decoder mirrors them.
      dim: D, width of the codebooks.
      commitment: weight of the pull of the encoder towards the codes.
      quantization: weight of codebook and commitment losses beside the reconstruction.
      balanced: train the last level with codes used alike within a batch, as LC-Rec; evaluation
        takes the nearest code.
      epsilon: of that balance, see ``ops.quantize.sinkhorn``.
      balance_steps: rounds of Sinkhorn's algorithm.
      revive_after: epochs after which a code that was not chosen moves to an item; 0 never.
      start_steps: rounds of the k-means start.
      unique: how items alike are told apart, "suffix" (TIGER), "sinkhorn" (LC-Rec) or "none"
        (``ops.quantize.deduplicated``).
    """

    sizes: tuple[int, ...] = (256, 256, 256)
    layers: tuple[int, ...] = (512, 256, 128)
    dim: int = 32
    commitment: float = 0.25
    quantization: float = 1.0
    balanced: bool = False
    epsilon: float = 0.003
    balance_steps: int = 50
    revive_after: float = 1.0
    start_steps: int = 25
    unique: str = "suffix"

    task = "codes"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        quantize.check(hyper.get("unique", cls.unique))
        return codes.context(data)

    def setup(self):
        width = sum(width for _, width in self.spec.feature_dims)
        self.encoder = MLP((*self.layers, self.dim))
        self.decoder = MLP((*self.layers[::-1], width))
        name = lambda what, level: f"{what}_{level}"
        shapes = [(k, self.dim) for k in self.sizes]
        zeros = nn.initializers.zeros
        self.moved = [self.param(name("moved", n), zeros, s) for n, s in enumerate(shapes)]
        constant = lambda name, shape: self.variable("codebooks", name, jnp.zeros, shape)
        self.start = [constant(name("start", n), shape) for n, shape in enumerate(shapes)]
        self.idle = [constant(name("idle", n), shape[:1]) for n, shape in enumerate(shapes)]

    def codebooks(self) -> list[Array]:
        """The centroids of every level, [k, D]."""
        return [start.value + moved for start, moved in zip(self.start, self.moved, strict=True)]

    def represent(self, ctx: Context) -> codes.Codes:
        latent, codebooks = self.encoder(ctx.tables["items"]), self.codebooks()
        code, total, residual = quantize.encode(latent, codebooks)
        return codes.rated(ctx, code, self.decoder(total), residual, codebooks[-1])

    def loss(self, batch: codes.Batch, ctx: Context) -> tuple[Array, dict[str, Array]]:
        if self.is_initializing():
            self._start(ctx)
        items = ctx.tables["items"][batch.item]
        latent = self.encoder(items).astype(jnp.float32)
        total, quantization, revived = self._quantize(latent, batch.weight)
        decoded = self.decoder((latent + lax.stop_gradient(total - latent)).astype(items.dtype))
        reconstruction = _squared(decoded, items, batch.weight)
        loss = reconstruction + self.quantization * quantization
        parts = {"reconstruction": reconstruction, "quantization": quantization}
        return loss, parts | {"revived": revived}

    def _start(self, ctx: Context) -> None:
        """Puts the codebooks where residual k-means of all encoded items does."""
        latent = self.encoder(ctx.tables["items"]).astype(jnp.float32)
        centroids = quantize.residual_kmeans(
            self.make_rng("dropout"), latent, self.sizes, self.start_steps, ctx.tables["known"]
        )
        for start, value in zip(self.start, centroids, strict=True):
            start.value = value

    def _quantize(self, latent: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Sums of centroids [B, D], the mean loss over levels, and how many codes were revived."""
        residual, total, parts, revived = latent, jnp.zeros_like(latent), [], jnp.zeros(())
        for level, codebook in enumerate(self.codebooks()):
            code = self._assign(level, lax.stop_gradient(residual), codebook, weight)
            chosen = codebook[code]
            learn = _squared(chosen, lax.stop_gradient(residual), weight)
            commit = _squared(residual, lax.stop_gradient(chosen), weight)
            parts.append(learn + self.commitment * commit)
            if self.is_mutable_collection("codebooks") and not self.is_initializing():
                revived += self._revive(level, code, codebook, residual, weight)
            # As in LC-Rec's code, gradients reach the encoder through the first level alone.
            residual = lax.stop_gradient(residual - chosen)
            total = total + lax.stop_gradient(chosen)
        return total, jnp.stack(parts).mean(), revived

    def _assign(self, level: int, residual: Array, codebook: Array, weight: Array) -> Array:
        codebook = lax.stop_gradient(codebook)
        if not self.balanced or level < len(self.sizes) - 1:
            return quantize.assign(residual, codebook)
        squares = quantize.distances(residual, codebook)
        return quantize.balanced(squares, self.epsilon, self.balance_steps, weight)

    def _revive(self, level: int, code: Array, codebook: Array, residual: Array, weight: Array):
        """Moves codes idle for too long to residuals drawn by their error; says how many."""
        idle, start = self.idle[level], self.start[level]
        used = jax.ops.segment_sum(weight, code, self.sizes[level]) > 0
        aged = jnp.where(used, 0.0, idle.value + weight.sum() / self.spec.num_items)
        dead = (aged > self.revive_after) & (self.revive_after > 0)
        error = ((residual - codebook[code]) ** 2).sum(-1) * (weight > 0)
        drawn = jax.random.categorical(
            self.make_rng("dropout"), jnp.log(error + 1e-12 * weight), shape=used.shape
        )
        move = jnp.where(dead[:, None], residual[drawn] - codebook, 0.0)
        start.value = lax.stop_gradient(start.value + move)
        idle.value = lax.stop_gradient(jnp.where(dead, 0.0, aged))
        return lax.stop_gradient(dead.sum().astype(jnp.float32))


def _squared(x: Array, y: Array, weight: Array) -> Array:
    """Mean squared difference of the entries of [B, D] arrays, over the rows of positive weight."""
    difference = x.astype(jnp.float32) - y.astype(jnp.float32)
    return losses.masked_mean((difference**2).mean(-1), weight)


Model = RQVAE
