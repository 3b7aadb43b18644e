"""Codes task: one item at a time, to be described by a few discrete codes.

The items are those of the whole catalogue, whatever the split: a tokenizer reads features, not
interactions. The codes are left in ``codes.parquet`` for a generator to read, with a health report
in ``codes.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from mmrec_jax import hosts, store
from mmrec_jax.ops import quantize
from mmrec_jax.types import Array, Context, Dataset, UserError

METRICS = ("unique", "fit", "use", "perplexity")  # what labels() explains; all are measured
ENTITY = "item"  # what a query asks about


@struct.dataclass
class Arrays:
    """Training items on the device.

    Attributes:
      item: int32 [M], items with features.
    """

    item: Array


@struct.dataclass
class Batch:
    """B items.

    Attributes:
      item: int32 [B].
      weight: float32 [B], 0 at the padding of the last batch.
    """

    item: Array
    weight: Array


@struct.dataclass
class Query:
    """One block of items.

    Attributes:
      user: int32 [B], items in fact: the evaluator's name for what is asked about.
      valid: bool [B], False at padding.
    """

    user: Array
    valid: Array


@struct.dataclass
class Codes:
    """What the ``represent`` of a tokenizer returns.

    Attributes:
      codes: int32 [I, C].
      error: float32 [I], squared error of the reconstruction; 0 for items without features.
      energy: float32 [I], squared length of the item's features, which are centred.
      residual: float32 [I, D], what the last level was given.
      codebook: float32 [k, D], of the last level.
    """

    codes: Array
    error: Array
    energy: Array
    residual: Array
    codebook: Array


def context(data: Dataset) -> Context:
    """Tables ``items`` float32 [I, F], all features side by side, and ``known`` float32 [I].

    Each modality is centred and scaled by one number, so that all weigh the same and the mean
    square of an entry is 1. Missing rows are at the centre; ``known`` is 0 where all are missing.

    Raises:
      UserError: no features.
    """
    if not data.features:
        raise UserError(
            f"{data.name}: codes are made from item features; name feature files in data.features"
        )
    parts = {name: _scaled(data.features[name], data.present[name]) for name in data.features}
    items = np.concatenate(list(parts.values()), axis=1)
    widths = [part.shape[1] for part in parts.values()]
    items *= np.repeat(np.sqrt(sum(widths) / (len(widths) * np.array(widths))), widths)
    tables = {"items": items, "known": _known(data).astype(np.float32)}
    return Context(tables={name: jnp.asarray(x, jnp.float32) for name, x in tables.items()})


def _scaled(features: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rows [I, F] about their centre, with mean square 1 over those present; others are zero."""
    rows = features[present].astype(np.float64)
    moved = np.zeros(features.shape)
    if len(rows):
        moved[present] = rows - rows.mean(0)
    square = (moved[present] ** 2).mean() if len(rows) else 0.0
    return moved / np.sqrt(square) if square > 0 else moved


def _known(data: Dataset) -> np.ndarray:
    return np.any([data.present[name] for name in data.features], axis=0)


def rated(ctx: Context, codes: Array, decoded: Array, residual: Array, codebook: Array) -> Codes:
    """The codes of all items with the errors of their reconstructions ``decoded`` [I, F]."""
    items, known = ctx.tables["items"], ctx.tables["known"]
    error = ((decoded - items) ** 2).sum(-1) * known
    return Codes(codes, error, (items**2).sum(-1) * known, residual, codebook)


def prepare(data: Dataset, config) -> Arrays:
    """The items that have features.

    Raises:
      UserError: none has.
    """
    del config
    item = np.flatnonzero(_known(data)) if data.features else np.zeros(0)
    if not item.size:
        raise UserError(f"{data.name}: no item has features; name feature files in data.features")
    return Arrays(jnp.asarray(item, jnp.int32))


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: items with features."""
    return arrays.item.shape[0]


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The items at ``index`` int32 [B]."""
    del key
    return Batch(arrays.item[index], weight)


def queries(data: Dataset, split: str, config) -> Query:
    """All items of the catalogue in blocks of ``config.eval.block``, whatever the split."""
    del split
    count = data.spec.num_items
    block = min(config.eval.block, count)
    item = np.arange(-(-count // block) * block, dtype=np.int32).reshape(-1, block)
    return Query(np.minimum(item, count - 1), item < count)


def measure(model, variables, rep: Codes, query: Query, names, ks) -> dict[str, Array]:
    """Codes, error and energy of one block of items; float32 [B] each, exact for codes < 2^24."""
    del model, variables, names, ks
    codes = rep.codes[query.user].astype(jnp.float32)
    measured = {f"code_{level}": codes[:, level] for level in range(codes.shape[1])}
    return measured | {"error": rep.error[query.user], "energy": rep.energy[query.user]}


def labels(config) -> list[str]:
    """Names of what is measured, before codes are made unique.

    ``unique``, different codes per item (1 less LC-Rec's collision rate); ``fit``, the share of
    the features' variance that the codes explain; and for each level from 1, ``use@1``, how many
    of its codes are in use, and ``perplexity@1``, how many they would be if all were used alike.

    Raises:
      UserError: ``eval.metrics`` asks for others.
    """
    unknown = [name for name in config.eval.metrics if name not in METRICS]
    if unknown:
        known = ", ".join(METRICS)
        raise UserError(f"eval.metrics has {unknown[0]!r}; of codes there are {known}")
    levels = range(1, len(config.model.sizes) + 1)
    per_level = [f"{name}@{level}" for name in METRICS[2:] for level in levels]
    return [*METRICS[:2], *per_level]


def summarise(measured: dict[str, np.ndarray], users: np.ndarray) -> dict[str, float]:
    """The values of :func:`labels`, pooled over all items."""
    del users
    levels = sum(name.startswith("code_") for name in measured)
    codes = np.stack([measured[f"code_{level}"] for level in range(levels)], 1).astype(np.int64)
    error, energy = (measured[name].sum(dtype=np.float64) for name in ("error", "energy"))
    fit = 1 - error / energy if energy > 0 else 0.0
    counts = [np.bincount(column) for column in codes.T]
    means = {"unique": len(np.unique(codes, axis=0)) / len(codes), "fit": float(fit)}
    means |= {f"use@{n}": float((count > 0).sum()) for n, count in enumerate(counts, 1)}
    return means | {f"perplexity@{n}": perplexity(count) for n, count in enumerate(counts, 1)}


def perplexity(count: np.ndarray) -> float:
    """Exponential of the entropy of how often each code is used."""
    share = count[count > 0] / max(count.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))


def finish(run, data: Dataset, ctx: Context, variables, workdir: str | Path) -> dict[str, Any]:
    """Makes the codes unique and writes ``codes.parquet``, ``codes.json`` and ``codes.png``.

    Returns:
      Under ``codes``, what ``codes.json`` says.
    """
    model, workdir = run.model({}), Path(workdir)
    rep = jax.jit(lambda v, ctx: model.apply(v, ctx, method="represent"))(variables, ctx)
    rep = hosts.whole(rep)
    before = rep.codes
    after = quantize.deduplicated(model.unique, before, rep.residual, rep.codebook)
    sizes = list(model.sizes)
    sizes += [int(after[:, -1].max()) + 1] * (after.shape[1] - len(sizes))
    columns = {f"code_{level}": after[:, level] for level in range(after.shape[1])}
    ids = data.item_ids.astype(str)
    store.per_query(workdir / "codes.parquet", columns, ENTITY, ids)
    _plot(workdir / "codes.png", after, sizes)
    health = {
        "items": len(after),
        "items_without_features": int((~_known(data)).sum()),
        "sizes": sizes,
        "use": [int(len(np.unique(column))) for column in after.T],
        "perplexity": [perplexity(np.bincount(column)) for column in after.T],
        "unique": model.unique,
        "collisions_before": collisions(before),
        "collisions_after": collisions(after),
        "features": fingerprint(data),
        "method": run.config.model.name,
        "seed": run.config.seed,
    }
    store.write_json(workdir / "codes.json", health)
    return {"codes": health}


def collisions(codes: np.ndarray) -> dict[str, float]:
    """How many items share their codes with another.

    Returns:
      ``rate``, items too many for different codes to go round, as a share of all (LC-Rec's
      collision rate); ``items`` that share; and the ``largest`` group of items alike.
    """
    count = np.bincount(quantize.same(codes)[0])
    sharing = int(count[count > 1].sum())
    return {
        "rate": float(1 - len(count) / len(codes)),
        "items": sharing,
        "largest": int(count.max()),
    }


def fingerprint(data: Dataset) -> dict[str, Any]:
    """Width, missing rows and SHA-256 of each feature matrix; the split has no part in it.

    The hash is of the item ids and their rows in the order of the ids as text, so that it does not
    depend on how the data set numbers its items.
    """
    ids = data.item_ids.astype(str)
    order = np.argsort(ids)
    text = "\n".join(ids[order]).encode()
    facts = {}
    for name, rows in data.features.items():
        present = data.present[name]
        content = np.ascontiguousarray(rows[order], np.float32).tobytes()
        digest = hashlib.sha256(text + present[order].tobytes() + content).hexdigest()
        facts[name] = {
            "width": rows.shape[1],
            "missing": int((~present).sum()),
            "sha256": digest,
        }
    return facts


def _plot(path: Path, codes: np.ndarray, sizes: Sequence[int]) -> None:
    """Plots how many items have each code, most frequent first, a curve per level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for level, k in enumerate(sizes):
        count = np.sort(np.bincount(codes[:, level], minlength=k))[::-1]
        axes.plot(np.arange(1, k + 1), count, label=f"level {level + 1}")
    axes.set(xlabel="codes, most frequent first", ylabel="items", yscale="symlog")
    axes.legend()
    with store.replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
