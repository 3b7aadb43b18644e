"""Interpolation between points on the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from mmrec_jax.types import Array

_MARGIN = 1e-6  # of a cosine to 1, where the angle has no gradient


def slerp(first: Array, second: Array, mix: Array) -> Array:
    """Points on the great circles from ``first`` to ``second``, unit vectors [B, D] both.

    Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985,
    https://doi.org/10.1145/325334.325242.

    Args:
      first, second: [B, D].
      mix: [B], 0 gives ``first`` and 1 gives ``second``.
    """
    cosine = jnp.sum(first * second, axis=-1, keepdims=True)
    angle = jnp.arccos(jnp.clip(cosine, _MARGIN - 1.0, 1.0 - _MARGIN))
    mix = mix[:, None]
    return (jnp.sin((1 - mix) * angle) * first + jnp.sin(mix * angle) * second) / jnp.sin(angle)


def bezier(points: Sequence[Array], there: Sequence[Array], mix: Array) -> Array:
    """Points [B, D] on spherical Bezier curves, by De Casteljau's construction.

    Args:
      points: control points of the curves in order, unit vectors [B, D], zero where not there.
      there: bool [B] for each of them; a curve is drawn through those that are there, and is zero
        without any.
      mix: [B], the place on each curve, 0 its first point and 1 its last.
    """
    points, there = list(points), list(there)
    while len(points) > 1:
        pairs = zip(points, points[1:], there, there[1:], strict=False)
        points = [
            jnp.where((has & had)[:, None], slerp(a, b, mix), a + b) for a, b, had, has in pairs
        ]
        there = [had | has for had, has in zip(there, there[1:], strict=False)]
    return points[0]
