"""Layers that several methods share, and PyTorch's initial values where parity needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax.ops import project
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
    def __call__(self, features: Sequence[Array], rows: Array) -> Array:
        """Projections [B, D] of rows int32 [B] of ``features``, each [I, F]."""
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
    def __call__(self, features: Array, rows: Array) -> Array:
        """Projections [B, D] of rows int32 [B] of ``features`` [I, F]."""
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
