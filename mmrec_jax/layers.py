"""Layers that several methods share, and PyTorch's initial values where parity needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax import losses
from mmrec_jax.ops import graph, project, scalar_attention
from mmrec_jax.types import Array

# jax's own xavier_normal is truncated at two standard deviations, PyTorch's is not.
xavier_normal = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
# PyTorch's default for a linear layer's kernel: uniform within 1 / sqrt(fan_in).
uniform_fan_in = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def uniform_bias(fan_in: int) -> Callable[..., Array]:
    """PyTorch's default for the bias of a linear layer with ``fan_in`` inputs."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def dropout(key: Array, x: Array, rate: float | Array) -> Array:
    """Zeroes entries with probability ``rate`` (which may be traced) and scales up the others."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


class Dropout(nn.Module):
    """Dropout whose rate may be a traced value.

    Attributes:
      rate: share of entries that is dropped.
    """

    rate: float

    def __call__(self, x: Array, deterministic: bool) -> Array:
        """``x``, with entries dropped unless ``deterministic``."""
        if deterministic or (isinstance(self.rate, float) and self.rate == 0.0):
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)


class Perceptron(nn.Module):
    """Dense layers, each followed by ReLU and dropout.

    Attributes:
      hidden: width of each layer.
      rate: of dropout.
    """

    hidden: Sequence[int]
    rate: float = 0.0

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        """[..., hidden[-1]] of [..., D]."""
        for width in self.hidden:
            x = Dropout(self.rate)(nn.relu(nn.Dense(width)(x)), deterministic)
        return x


class ProjectRows(nn.Module):
    """A dense layer over some rows of matrices side by side, of which each row is read once.

    Attributes:
      dim: D.
      use_bias: whether a bias is added.
      kernel_init, bias_init: initial values.
    """

    dim: int
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros

    @nn.compact
    def __call__(self, features: Sequence[Array], rows: Array | None = None) -> Array:
        """Projections [B, D] of rows int32 [B] of ``features``, each [I, F]; None for all rows."""
        widths = [matrix.shape[1] for matrix in features]
        kernel = self.param("kernel", self.kernel_init, (sum(widths), self.dim))
        parts = jnp.split(kernel, np.cumsum(widths)[:-1])
        projected = jnp.zeros((), kernel.dtype)
        for matrix, part in zip(features, parts, strict=True):
            projected += project.project(matrix, part, rows)
        if self.use_bias:
            projected = projected + self.param("bias", self.bias_init, (self.dim,))[None]
        return projected


class Feature(nn.Module):
    """Projects rows of one modality's features to the embedding space.

    Attributes:
      dim: D.
      finetune: learn the raw features too, starting from the given ones. It costs I x F more
        parameters, twice that again for Adam's moments, and an update of all of them in every
        step.
      use_bias: whether the projection has one; it cancels in differences of inner products.
      kernel_init: initial values of the projection's kernel.
    """

    dim: int
    finetune: bool = False
    use_bias: bool = True
    kernel_init: Callable[..., Array] = uniform_fan_in

    @nn.compact
    def __call__(self, features: Array, rows: Array | None = None) -> Array:
        """Projections [B, D] of rows int32 [B] of ``features`` [I, F]; None for all rows."""
        if self.finetune:
            given = features
            features = self.param("features", lambda _: given)
        rows_of = ProjectRows(
            self.dim,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=uniform_bias(features.shape[1]),
            name="project",
        )
        return rows_of((features,), rows)


class ContentVectors(nn.Module):
    """Vectors of all items from their features alone, by one hidden layer with leaky ReLU.

    Features are read at full width in each step: nothing cheaper is exact.

    Attributes:
      dim: D.
      hidden: width of the hidden layer.
    """

    dim: int
    hidden: int

    @nn.compact
    def __call__(self, features: Sequence[Array], there: Array) -> Array:
        """[I, D] of matrices [I, F] side by side; zero but for the items ``there``, bool [I]."""
        bias_init = uniform_bias(sum(matrix.shape[1] for matrix in features))
        project = ProjectRows(self.hidden, kernel_init=uniform_fan_in, bias_init=bias_init)
        narrow = nn.Dense(self.dim, use_bias=False, kernel_init=uniform_fan_in)
        return jnp.where(there[:, None], narrow(nn.leaky_relu(project(features))), 0.0)


class Gate(nn.Module):
    """Lets through of a vector what a signal asks for: ``value * sigmoid(dense(signal))``."""

    @nn.compact
    def __call__(self, value: Array, signal: Array) -> Array:
        """[..., D] of ``value`` [..., D] and ``signal`` [..., S]."""
        dense = nn.Dense(
            value.shape[-1],
            kernel_init=uniform_fan_in,
            bias_init=uniform_bias(signal.shape[-1]),
        )
        return value * nn.sigmoid(dense(signal))


class ViewFusion(nn.Module):
    """Fuses the views of an item or a user by modality: what they share, and what each adds.

    Attention weighs the views to what they share; of what each differs from that, a gate lets
    through what the behaviour asks for; the result is the mean of the shared part and the gated
    ones. Yu et al., "MGCN", ACM MM 2023, https://arxiv.org/abs/2308.03588. A view that is not
    there has no part in it; a single view is returned as it is.
    """

    @nn.compact
    def __call__(
        self, views: Mapping[str, Array], behaviour: Array, there: Array
    ) -> tuple[Array, Array]:
        """The fused vectors [B, D] and the weights [B, M] of the views.

        Args:
          views: M arrays [B, D] by name, zero where not there.
          behaviour: [B, D], what opens the gates.
          there: bool [B, M].
        """
        stacked = jnp.stack(list(views.values()), axis=1)  # [B, M, D]
        if len(views) == 1:
            return stacked[:, 0], there.astype(stacked.dtype)
        width = stacked.shape[-1]
        hidden = nn.Dense(width, kernel_init=uniform_fan_in, bias_init=uniform_bias(width))
        query = nn.Dense(1, use_bias=False, kernel_init=uniform_fan_in)
        logit = query(nn.tanh(hidden(stacked)))[..., 0]
        weight = jnp.where(there, nn.softmax(jnp.where(there, logit, -1e9)), 0.0)
        shared = jnp.sum(weight[..., None] * stacked, axis=1)
        total = shared
        for number, (name, view) in enumerate(views.items()):
            own = jnp.where(there[:, number, None], view - shared, 0.0)
            total += Gate(name=f"gate_{name}")(own, behaviour)
        return total / (len(views) + 1), weight


class NumberAttention(nn.Module):
    """Attention of one head between the numbers of two vectors, each number a token.

    Attributes:
      rate: of dropout over the attention weights; may be traced.
    """

    rate: float

    @nn.compact
    def __call__(self, query: Array, key: Array, deterministic: bool) -> Array:
        """[R, D]: each number of ``query`` attends to those of ``key``, both [R, D]."""
        uniform = lambda bound: lambda *args: jax.random.uniform(*args, minval=-bound, maxval=bound)
        kernel = self.param("kernel", uniform(1.5**0.5), (3,))  # of query, key and value
        bias = self.param("bias", nn.initializers.zeros, (3,))
        inputs = (x * kernel[n] + bias[n] for n, x in enumerate((query, key, key)))
        off = deterministic or (isinstance(self.rate, float) and self.rate == 0.0)
        rng = None if off else self.make_rng("dropout")
        out = scalar_attention.attend(*inputs, rng, self.rate)
        scale = self.param("out_kernel", uniform(1.0), ())
        return out * scale + self.param("out_bias", nn.initializers.zeros, ())


class LowRank(nn.Module):
    """A matrix of its own for each node, of low rank, which a meta-network makes of its knowledge.

    A layer that stays as it was drawn (collection ``fixed``) narrows the knowledge, and no gradient
    passes it. From there two perceptrons give the factors [D, r] and [r, D] of every node, together
    of length one; to each the mean over the nodes is added, and a softmax runs over its rows. Ma et
    al., "REARM", ACM MM 2025, https://arxiv.org/abs/2508.13745.

    Attributes:
      rank: r.
    """

    rank: int

    @nn.compact
    def __call__(self, x: Array, knowledge: Array, rows: Array | None = None) -> Array:
        """Vectors ``x`` [B, D] times their matrices, [B, D].

        Args:
          x: [B, D], of the nodes ``rows``.
          knowledge: [N, S], of all nodes.
          rows: int32 [B], which nodes; None for all.
        """
        width, size = x.shape[-1], x.shape[-1] * self.rank
        draw = lambda init, *shape: lambda: init(self.make_rng("params"), shape)
        fan_in = knowledge.shape[-1]
        kernel = self.variable("fixed", "kernel", draw(uniform_fan_in, fan_in, width)).value
        bias = self.variable("fixed", "bias", draw(uniform_bias(fan_in), width)).value
        knowledge = jax.lax.stop_gradient(knowledge) @ kernel + bias[None]

        def factor() -> Array:
            """Logits [B, D r] of the nodes in ``rows``."""
            y = knowledge
            for last in (False, True):
                bias = uniform_bias(y.shape[-1])
                y = nn.Dense(size, kernel_init=uniform_fan_in, bias_init=bias)(y)
                y = y if last else nn.PReLU(negative_slope_init=0.25)(y)
            y = losses.unit(y)
            return (y if rows is None else graph.take_rows(y, rows)) + y.mean(0, keepdims=True)

        # No logit exceeds 2. One slice for each of r: an axis this short makes slow loops on CPUs.
        first, second = factor(), factor()
        down = [jnp.exp(first[:, r :: self.rank]) for r in range(self.rank)]
        up = [jnp.exp(logits) for logits in jnp.split(second, self.rank, axis=1)]
        narrow = [jnp.sum(x * d, 1, keepdims=True) / jnp.sum(d, 1, keepdims=True) for d in down]
        met = (n * u for n, u in zip(narrow, up, strict=True))
        return sum(met, jnp.zeros_like(x)) / sum(up)


class ItemNorm(nn.Module):
    """Batch norm whose batch is all items."""

    @nn.compact
    def __call__(self, x: Array, where: Array) -> Array:
        """Columns of ``x`` [I, C] scaled by mean and variance over rows in ``where`` [I]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[1:])
        weight = where.astype(jnp.float32)[:, None]
        mean = lambda y: jnp.sum(y * weight, axis=0) / jnp.maximum(jnp.sum(weight), 1.0)
        centred = x.astype(jnp.float32) - mean(x.astype(jnp.float32))[None]
        normal = centred * jax.lax.rsqrt(mean(jnp.square(centred)) + 1e-5)[None]
        return (normal * scale[None] + bias[None]).astype(x.dtype)


class Annealing(nn.Module):
    """The weight of the KL divergence: it grows with every step, up to a cap.

    The steps are counted in the collection ``schedule``, which is saved with the parameters.

    Attributes:
      cap: largest weight.
      steps: after which an uncapped weight would be 1; 0 for ``cap`` from the start.
    """

    cap: float
    steps: int

    @nn.compact
    def __call__(self) -> Array:
        """The weight in this step, float32 []."""
        done = self.variable("schedule", "steps", lambda: jnp.zeros((), jnp.int32))
        grown = done.value / self.steps if self.steps else jnp.inf
        if not self.is_initializing():
            done.value += 1
        return jnp.minimum(jnp.float32(self.cap), grown)
