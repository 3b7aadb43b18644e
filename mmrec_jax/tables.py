"""Embedding tables, and what can take their place: ``Method(spec, tables={"item": ...})``.

An alternative is a module that is called with the name of a table and with the number of rows, the
width and the initial values that the method asked for, and returns the whole table. Whatever it
is made of, its entries start out as those of the method's own table would. The arrays that it reads
are fields of it; a run takes them from the context, so that they are arguments of its programs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mmrec_jax.ops import quantize
from mmrec_jax.types import Array, Context, Dataset, PyTree, Recommender, Spec, UserError

KINDS = {"item": ("id", "features", "both", "hashed", "motor"), "user": ("id", "hashed")}
_ITERATIONS = 25  # of k-means


class Hashed(nn.Module):
    """A unified embedding: all ids of all tables that it serves look up rows of one small table.

    Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML
    Systems", NeurIPS 2023, https://arxiv.org/abs/2305.12102. A vector is the concatenation of
    several looked-up rows; each table and each place in the vector has its own hash function.
    One instance may serve users and items of different widths. The authors' code in TensorFlow
    Recommenders may spread the lookups over several tables; here there is one.

    Attributes:
      rows: of the shared table.
      width: its columns; divides the width of every table asked for.
    """

    rows: int
    width: int

    @nn.compact
    def __call__(self, name: str, count: int, dim: int, init: Callable) -> Array:
        """The table [count, dim], a row for each id."""
        if self.rows < 1 or self.width < 1 or dim % self.width:
            raise UserError(
                f"table.hash_width is {self.width} and table.hash_rows {self.rows}: rows must be "
                f"positive and the width a divisor of {dim}, the width of the {name} vectors"
            )
        shared = self.param("shared", alike(init, count, dim), (self.rows, self.width))
        lookups = [
            slots(count, self.rows, zlib.crc32(f"{name}/{place}".encode()))
            for place in range(dim // self.width)
        ]
        return shared[jnp.stack(lookups, axis=-1)].reshape(count, dim)


class Features(nn.Module):
    """Projected frozen features, averaged over the modalities that an item has a row of.

    Rows are scaled to length 1 first. An item without any row has the vector zero.

    Attributes:
      features: [I, F] by modality.
      present: bool [I] by modality.
      hidden: width of a hidden layer with GELU; 0 for a linear projection.
      with_id: add an id table.
    """

    features: Mapping[str, Array]
    present: Mapping[str, Array]
    hidden: int = 0
    with_id: bool = False

    @nn.compact
    def __call__(self, name: str, count: int, dim: int, init: Callable) -> Array:
        """The table [count, dim]; ``count`` is I."""
        start = alike(init, count, dim)
        known = [self.present[modality][:, None] for modality in self.features]
        projected = [self._project(*entry, dim, start) for entry in self.features.items()]
        kept = [jnp.where(k, p, 0) for k, p in zip(known, projected, strict=True)]
        number = sum(k.astype(p.dtype) for k, p in zip(known, projected, strict=True))
        table = sum(kept) / jnp.maximum(number, 1)
        return table + self.param("id", init, (count, dim)) if self.with_id else table

    def _project(self, modality: str, x: Array, dim: int, start: Callable) -> Array:
        # Scaling by the length commutes with a product, which so is one with the features as is.
        square = jnp.square(x.astype(jnp.float32)).sum(-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.maximum(square, 1e-12)).astype(x.dtype)
        if not self.hidden:
            out = nn.Dense(dim, use_bias=False, kernel_init=start, name=modality)
            return out(x) * scale
        inner = nn.Dense(self.hidden, use_bias=False, name=f"{modality}_hidden")
        out = nn.Dense(dim, use_bias=False, kernel_init=start, name=modality)
        hidden = inner(x) * scale * x.shape[-1] ** 0.5  # of unit variance
        return out(nn.gelu(hidden)) * self.hidden**-0.5


class Motor(nn.Module):
    """Learned embeddings of the tokens of an item's quantised features, crossed with each other.

    MOTOR: Zhang et al., "Learning ID-free Item Representation with Token Crossing for Multimodal
    Recommendation", 2024, https://arxiv.org/abs/2410.19276. From the abstract: product
    quantisation of each modality, learnable embeddings of the tokens, a Token Cross Network whose
    output stands in for the item's id embedding, and no further loss. No code is public, and of
    the network itself nothing else was at hand. So these are reconstructions: the tokens of all
    modalities are concatenated, crossed as in DCN-V2 (Wang et al., WWW 2021,
    https://arxiv.org/abs/2008.13535; ``x + x0 * (W x + b)``), and projected; modalities that an
    item lacks have tokens of their own.

    The token ids are saved with the parameters (collection ``codes``): k-means may end elsewhere
    on another device.

    Attributes:
      tokens: int32 [I, M] by modality, from :func:`product_tokens`.
      size: tokens of each codebook; ``size`` itself stands for a missing row.
      token_dim: width of the embedding of a token.
      cross_layers: crossings.
    """

    tokens: Mapping[str, Array]
    size: int = 256
    token_dim: int = 16
    cross_layers: int = 2

    @nn.compact
    def __call__(self, name: str, count: int, dim: int, init: Callable) -> Array:
        """The table [count, dim]; ``count`` is I."""
        codes = [
            self.variable("codes", modality, jnp.asarray, tokens).value
            for modality, tokens in self.tokens.items()
        ]
        codes = jnp.concatenate(codes, axis=-1)  # [I, M]
        books = codes.shape[-1]
        shape = (books * (self.size + 1), self.token_dim)
        embedding = self.param("tokens", nn.initializers.normal(1.0), shape)
        places = codes + (self.size + 1) * jnp.arange(books, dtype=codes.dtype)[None]
        x = first = embedding[places].reshape(count, books * self.token_dim)
        for layer in range(self.cross_layers):
            x += first * nn.Dense(first.shape[-1], name=f"cross_{layer}")(x)
        x = nn.RMSNorm(use_scale=False)(x) * x.shape[-1] ** -0.5  # products of products grow
        start = alike(init, count, dim)
        return nn.Dense(dim, use_bias=False, kernel_init=start, name="project")(x)


def alike(init: Callable, count: int, dim: int) -> Callable:
    """An initialiser of any shape whose entries are distributed as those of ``init`` [count, dim].

    Usual initialisers look at the shape, and so would make a table of other parts smaller or larger
    than the table that the method's settings were found with.
    """

    def draw(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        size = int(np.prod(shape))
        keys = jax.random.split(key, -(-size // (count * dim)))
        drawn = jax.vmap(lambda key: init(key, (count, dim), dtype))(keys)
        return drawn.reshape(-1)[:size].reshape(shape)

    return draw


def slots(count: int, rows: int, seed: int) -> Array:
    """The row of each id under the hash function ``seed``, int32 [count]."""
    ids = jnp.arange(count, dtype=jnp.uint32) ^ _mix(jnp.uint32(seed))
    return (_mix(ids) % jnp.uint32(rows)).astype(jnp.int32)


def _mix(x: Array) -> Array:
    """The finaliser of MurmurHash3: every bit of ``x`` uint32 moves every bit of the result."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def product_tokens(
    features: np.ndarray, present: np.ndarray, codebooks: int, size: int
) -> np.ndarray:
    """Product quantisation: the nearest of ``size`` centroids in each of ``codebooks`` sub-spaces.

    Args:
      features: [I, F].
      present: bool [I]; what is missing is not clustered and gets the token ``size``.
      codebooks: M, runs of neighbouring columns that are quantised on their own.
      size: centroids in each, or as many as there are rows.

    Returns:
      int32 [I, M].
    """
    tokens = np.full((len(features), codebooks), size, np.int32)
    known = features[present]
    if not len(known):
        return tokens
    for book, part in enumerate(np.array_split(known, codebooks, axis=1)):
        part = jnp.asarray(part, jnp.float32)
        key = jax.random.key(book)  # a data set has its tokens, whatever the seed of the run
        centroids = quantize.kmeans(key, part, min(size, len(known)), steps=_ITERATIONS)
        tokens[present, book] = np.asarray(quantize.assign(part, centroids))
    return tokens


def chosen(config: Any) -> dict[str, str]:
    """The kind of every table that is no id table, by the name of the table.

    Args:
      config: section ``table`` of the configuration, or None for one from before there was any.

    Raises:
      UserError: an unknown kind.
    """
    kinds = {name: config[name] for name in KINDS} if config else {}
    for name, kind in kinds.items():
        if kind not in KINDS[name]:
            raise UserError(f"table.{name} is {kind!r}; it must be one of {', '.join(KINDS[name])}")
    return {name: kind for name, kind in kinds.items() if kind != "id"}


def prepare(config: Any, data: Dataset, ctx: Context) -> Context:
    """``ctx`` with what the tables of ``config`` read, in entries ``table/…`` of its tables.

    Raises:
      UserError: an unknown kind or modality, or more codebooks than columns.
    """
    kind = chosen(config).get("item", "id")
    if kind in ("id", "hashed"):
        return ctx
    names = _modalities(config, tuple(data.features), data.name)
    if kind != "motor":
        parts = {"features": data.features, "present": data.present}
        extra = {
            _entry(what, name): jnp.asarray(arrays[name])
            for what, arrays in parts.items()
            for name in names
            if name not in getattr(ctx, what)  # one copy on the device is enough
        }
        return ctx.replace(tables={**ctx.tables, **extra})
    extra = {}
    for name in names:
        columns = data.features[name].shape[1]
        if not 0 < config.codebooks <= columns or config.codebook_size < 1:
            raise UserError(
                f"table.codebooks is {config.codebooks} and table.codebook_size "
                f"{config.codebook_size}: the {columns} columns of {name} need 1 to {columns} "
                "codebooks of at least 1 token"
            )
        sizes = config.codebooks, config.codebook_size
        tokens = product_tokens(data.features[name], data.present[name], *sizes)
        extra[_entry("tokens", name)] = jnp.asarray(tokens)
    return ctx.replace(tables={**ctx.tables, **extra})


def build(config: Any, spec: Spec, ctx: Context | None) -> dict[str, nn.Module]:
    """The field ``tables`` of a method, as ``config`` has it.

    Args:
      config: section ``table`` of the configuration.
      spec: sizes of the data.
      ctx: from :func:`prepare`; only what reads no data can do without.

    Raises:
      UserError: an unknown kind, or a table that reads what ``ctx`` has not.
    """
    kinds = chosen(config)
    counts = {"item": spec.num_items, "user": spec.num_users}
    rows = sum(counts[name] for name, kind in kinds.items() if kind == "hashed")
    shared = Hashed(config.hash_rows or rows, config.hash_width) if rows else None
    return {
        name: shared if shared and kind == "hashed" else _tower(kind, config, spec, ctx)
        for name, kind in kinds.items()
    }


def check_read(model: Recommender, params: PyTree) -> None:
    """Raises UserError if the fresh ``params`` of ``model`` lack a table that was configured."""
    modules = {id(model.tables[name]): name for name in sorted(model.tables, reverse=True)}
    for name in modules.values():  # one that serves both is known by the first name
        if f"tables_{name}" not in params:
            raise UserError(
                f"{type(model).__name__} has no {name} table; leave table.{name} at 'id'"
            )


def _tower(kind: str, config: Any, spec: Spec, ctx: Any) -> nn.Module:
    """The alternative ``kind`` for items that reads data."""
    names = _modalities(config, spec.modalities, "the data")

    def read(what: str) -> dict[str, Any]:
        own = getattr(ctx, what, {})
        return {name: ctx.tables.get(_entry(what, name), own.get(name)) for name in names}

    needed = ("tokens",) if kind == "motor" else ("features", "present")
    found = {what: read(what) for what in needed} if ctx is not None else {}
    if not found or any(array is None for arrays in found.values() for array in arrays.values()):
        raise UserError(
            f"table.item is {kind!r}, which reads the {' and '.join(needed)} of "
            f"{', '.join(names)}; pass the context that run.setup made"
        )
    if kind == "motor":
        return Motor(
            **found,
            size=config.codebook_size,
            token_dim=config.token_dim,
            cross_layers=config.cross_layers,
        )
    return Features(**found, hidden=config.hidden, with_id=kind == "both")


def _modalities(config: Any, known: tuple[str, ...], source: str) -> tuple[str, ...]:
    """The modalities that the item table reads."""
    names = tuple(config.modalities) or known
    if not names:
        raise UserError(
            f"table.item is {config.item!r}, but {source} has no item features; name some in "
            "data.features, or choose id or hashed"
        )
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"table.modalities names {', '.join(unknown)}, but {source} has {', '.join(known)}"
        )
    return names


def _entry(what: str, modality: str) -> str:
    return f"table/{what}/{modality}"
