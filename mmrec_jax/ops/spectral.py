"""Transforms to the frequency domain."""

from __future__ import annotations

import jax.numpy as jnp
import jax.scipy.fft

from mmrec_jax.types import Array


def dct(x: Array) -> Array:
    """Orthonormal discrete cosine transform (type II) of each row of x [..., F], in float32.

    Lengths and inner products of rows stay what they were. Ahmed, Natarajan and Rao, "Discrete
    Cosine Transform", IEEE ToC 1974, https://doi.org/10.1109/T-C.1974.223784.
    """
    return jax.scipy.fft.dct(x.astype(jnp.float32), norm="ortho", axis=-1)
