"""The pictures of a report, each written as a PNG beside the results.

Every function takes plain numbers and the file to write; text that a user gave is never read as
TeX. Libraries are imported where they are needed.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrec_jax import store

BLUE, ORANGE, GREY = "#2a6ebb", "#c4621a", "#8b9299"
_POINTS = 4000  # of an embedding map that are drawn; more would cover each other
_TICKS = 8  # values on an axis that are named one by one
_NEIGHBOURS = 500  # points of a map whose layout is searched for: t-SNE takes two seconds for them


def grid(count: int, width: float, height: float) -> tuple[Any, list]:
    """A figure with ``count`` axes in rows of two or three, each ``width`` x ``height`` inches."""
    from matplotlib.figure import Figure

    columns = 2 if count in (2, 4) else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    for each in axes[:count]:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def save(figure: Any, path: Path) -> Path:
    """Writes a figure as PNG, in one step."""
    with store.replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # boxes stand for them
        figure.savefig(part, format="png", dpi=120)
    return path


def short(value: Any, most: int = 24) -> str:
    """``value`` as text that fits below an axis."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def slices(families: Mapping[str, Mapping[str, Mapping]], metric: str, path: Path) -> Path | None:
    """Bars of ``metric`` over the slices of each family; None where no slice has it."""
    known = {
        family: {name: row[metric] for name, row in parts.items() if row.get(metric) is not None}
        for family, parts in families.items()
    }
    known = {family: parts for family, parts in known.items() if parts}
    if not known:
        return None
    most = max(map(len, known.values()))
    figure, axes = grid(len(known), 4.4, 0.6 + 0.3 * most)
    top = max(max(parts.values()) for parts in known.values())
    for axis, (family, parts) in zip(axes, known.items(), strict=True):
        places = np.arange(len(parts))[::-1]
        axis.barh(places, list(parts.values()), height=0.6, color=BLUE)
        for place, value in zip(places, parts.values(), strict=True):
            axis.text(value, place, f" {value:.4f}", va="center", fontsize=8)
        axis.set_yticks(places, [short(name) for name in parts], parse_math=False)
        axis.set(xlim=(0, 1.25 * top or 1), ylim=(len(parts) - most - 0.6, len(parts) - 0.4))
        axis.set_title(short(family, 40), fontsize=10, loc="left", parse_math=False)
    figure.get_layout_engine().set(h_pad=0.12)  # else titles touch the ticks above
    figure.supxlabel(metric, fontsize=10, parse_math=False)
    return save(figure, path)


def exposure(groups: Mapping[str, Mapping[str, float]], path: Path) -> Path:
    """Shares of popularity groups, ``{"recommended": {"head": 0.7, …}, …}``, side by side."""
    names = list(dict.fromkeys(name for parts in groups.values() for name in parts))
    figure, (axis,) = grid(1, 7.5, 3.4)
    places, width = np.arange(len(names)), 0.8 / len(groups)
    colours = dict(zip(groups, [GREY, "#c3c8cd", BLUE, ORANGE], strict=False))
    for number, (label, parts) in enumerate(groups.items()):
        at = places + (number - (len(groups) - 1) / 2) * width
        shares = [parts.get(name) or 0.0 for name in names]
        bars = axis.bar(at, shares, 0.9 * width, color=colours.get(label), label=short(label, 40))
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(places, [short(name) for name in names], parse_math=False)
    axis.set(ylabel="share")
    for text in axis.legend(frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    return save(figure, path)


def embedding(vectors: np.ndarray, popularity: np.ndarray, path: Path) -> Path:
    """A map of the items, coloured by how often each occurs in training.

    Args:
      vectors: float [I, D], of at least two columns.
      popularity: int [I].
      path: the file to write.
    """
    from matplotlib.colors import LogNorm

    place, labels, index = layout(vectors)
    count = popularity[index]
    order = np.argsort(count, kind="stable")  # the popular, being few, on top
    place, count = place[order], count[order]
    figure, (axis,) = grid(1, 7.5, 5.2)
    cold = count == 0
    axis.scatter(*place[cold].T, s=8, color="#c3c8cd", linewidths=0, label="not in training")
    rarest = int(count[~cold].min(initial=count.max(initial=1)))
    norm = LogNorm(max(rarest, 1), max(int(count.max(initial=0)), rarest + 1))
    drawn = axis.scatter(
        *place[~cold].T, s=10, c=count[~cold], cmap="viridis_r", norm=norm, linewidths=0
    )
    figure.colorbar(drawn, ax=axis, label="training interactions of the item")
    axis.set(xlabel=labels[0], ylabel=labels[1])
    if cold.any():
        axis.legend(frameon=False, fontsize=9)
    return save(figure, path)


def layout(vectors: np.ndarray) -> tuple[np.ndarray, tuple[str, str], np.ndarray]:
    """Places in the plane for (a fixed sample of) vectors.

    By UMAP or t-SNE where umap-learn or scikit-learn is installed, else by principal components.

    Returns:
      Places [n, 2], names of the two axes, and the rows of ``vectors`` that have a place, [n].
    """
    known = {name: importlib.util.find_spec(name) is not None for name in ("umap", "sklearn")}
    searched = any(known.values())
    most = _NEIGHBOURS if searched else _POINTS
    index = np.arange(len(vectors))
    if len(index) > most:
        index = np.sort(np.random.default_rng(0).choice(index, most, replace=False))
    x = np.asarray(vectors, np.float64)[index]
    if not searched or len(x) < 20:  # too few for neighbourhoods
        place, share = components(x)
        axes = [f"principal component {n + 1} ({share[n]:.0%} of variance)" for n in (0, 1)]
        return place, (axes[0], axes[1]), index
    place, name = neighbours(x, known["umap"])
    return place, (f"{name} 1", f"{name} 2"), index


def components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of ``x`` [n, D], and their shares of the variance."""
    from scipy import linalg

    x = x - x.mean(0)
    width = x.shape[1]
    scatter = x.T @ x
    values, basis = linalg.eigh(scatter, subset_by_index=[width - 2, width - 1])
    values, basis = values[::-1], basis[:, ::-1]
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), [0, 1]])  # a sign for every machine
    return x @ basis, values / max(np.trace(scatter), np.finfo(float).tiny)


def neighbours(x: np.ndarray, umap: bool) -> tuple[np.ndarray, str]:
    """Places that keep neighbours together, by UMAP or t-SNE, and the name of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that a fixed seed forbids, and the like
        if umap:
            from umap import UMAP  # pyright: ignore[reportMissingImports]

            return np.asarray(UMAP(random_state=0).fit_transform(x)), "UMAP"
        from sklearn.manifold import TSNE  # pyright: ignore[reportMissingImports]

        perplexity = min(30, (len(x) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(x), "t-SNE"


def sensitivity(
    space: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    best: Mapping[str, Any],
    path: Path,
) -> Path | None:
    """The validation metric against the values of each varied key, one small multiple per key.

    Args:
      space: what varies, and its values as in ``sweep.json``: a list or a range.
      rows: a run each: a value by key, and under ``metric`` what it reached or None.
      metric: its name.
      best: the chosen values.
      path: the file to write.
    """
    rows = [row for row in rows if row.get(metric) is not None]
    if not space or not rows:
        return None
    figure, axes = grid(len(space), 3.9, 3.0)
    for axis, (key, wanted) in zip(axes, space.items(), strict=True):
        values = [row[key] for row in rows]
        places, ticks = positions(values)
        reached = np.array([row[metric] for row in rows], float)
        axis.scatter(places, reached, s=18, color=GREY, linewidths=0, label="a run")
        distinct = np.unique(places)
        if len(distinct) < len(places):
            means = [reached[places == place].mean() for place in distinct]
            axis.plot(distinct, means, "-", color=BLUE, marker="o", ms=4, label="mean at the value")
        if best.get(key) in values:
            chosen = places[values.index(best[key])]
            axis.axvline(chosen, color=ORANGE, ls=":", lw=1.5, label="chosen")
        if ticks is None and logarithmic(wanted):
            axis.set_xscale("log")
        if ticks is not None or (not isinstance(wanted, str) and len(distinct) <= _TICKS):
            named = [short(tick, 14) for tick in ticks or distinct.tolist()]
            axis.set_xticks(distinct, named, parse_math=False)
            axis.minorticks_off()
        axis.margins(x=0.12)
        axis.set_xlabel(short(key, 40), parse_math=False)
        axis.tick_params(labelsize=8)
    axes[0].legend(frameon=False, fontsize=8)
    figure.supylabel(f"validation {metric}", fontsize=10, parse_math=False)
    return save(figure, path)


def positions(values: Sequence[Any]) -> tuple[np.ndarray, list | None]:
    """Where values stand on an axis; those that are no numbers evenly, with their names."""
    number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    if all(map(number, values)):
        return np.array(values, float), None
    names = list(dict.fromkeys(map(str, values)))
    return np.array([names.index(str(value)) for value in values], float), names


def logarithmic(values: Any) -> bool:
    """Whether values of a space, as in ``sweep.json``, are even on a logarithmic scale."""
    if isinstance(values, str):
        return values.startswith("log(")
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    positive = len(numbers) == len(values) > 1 and min(numbers) > 0
    return positive and max(numbers) >= 10 * min(numbers)


def validation(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    chosen: Sequence[str],
    path: Path,
) -> Path | None:
    """Validation of each run over its epochs: thin lines, and thick ones for those chosen."""
    figure, (axis,) = grid(1, 8.5, 4.2)
    drawn = 0
    for name in sorted(logs, key=lambda name: name in chosen):
        points = [(r["epoch"], r[f"valid/{metric}"]) for r in logs[name] if f"valid/{metric}" in r]
        points = [(epoch, value) for epoch, value in points if value is not None]
        if not points:
            continue
        drawn += 1
        won = name in chosen
        style = {"color": ORANGE, "lw": 2.2} if won else {"color": BLUE, "lw": 0.8, "alpha": 0.5}
        marker = "o" if len(points) == 1 else ""
        axis.plot(
            *zip(*points, strict=True),
            marker=marker,
            label="chosen" if won else "other runs",
            **style,
        )
    if not drawn:
        return None
    labels = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(list(labels.values()), list(labels), frameon=False, fontsize=9)
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"validation {metric}", parse_math=False)
    return save(figure, path)


def finite(value: Any) -> bool:
    """Whether ``value`` is a number that can be shown."""
    return isinstance(value, (int, float)) and math.isfinite(value)
