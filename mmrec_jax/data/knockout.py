"""Modality knock-out, and rows put in place of missing ones: what do the features contribute?

A knock-out is ``MODALITY:HOW``, several are joined by ``;``, and ``*`` stands for all modalities:

    zero          rows become zero
    mean          rows become their mean
    noise         rows become normal noise of the mean and deviation of each column
    shuffle       rows are exchanged at random between items
    missing=0.3   this share of the rows, drawn at random, goes missing

All of them are about rows that are present, and all but ``missing`` leave them present: which
items have a row stays as it was, what it says about them goes. A ready-made item graph named after
the modality follows: ``shuffle`` gives it the items' new places, as if it had been made anew;
``noise`` does the same with places drawn at random; ``zero`` and ``mean`` leave no edge, for such
rows tell no items apart; ``missing`` takes the edges of the items concerned.
"""

from __future__ import annotations

import dataclasses
import difflib
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from mmrec_jax.types import Dataset, Interactions, UserError

HOW = ("zero", "mean", "noise", "shuffle", "missing")
IMPUTE = ("zero", "mean", "knn", "graph")
NEIGHBOURS = 10  # items that a row is the mean of, with "knn"
STEPS = 20  # of propagation, with "graph"

_Edges = tuple[np.ndarray, np.ndarray, np.ndarray]


def parse(spec: str, modalities: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """``(modality, how, rate)`` in the order of ``spec``; the rate is 1 but for ``missing``.

    Raises:
      UserError: no modality or no way to knock it out of this name, or no rate between 0 and 1.
    """
    if not modalities:
        raise UserError(f"knockout '{spec}': the data have no features to knock out")
    parts = []
    for word in filter(None, map(str.strip, spec.split(";"))):
        name, colon, rest = word.partition(":")
        how, equals, rate = rest.partition("=")
        if not colon:
            raise UserError(f"knockout '{word}': expected MODALITY:HOW, such as *:shuffle")
        _check(word, name, ("*", *modalities), "modality")
        _check(word, how, HOW, "way to knock out")
        if (how == "missing") != bool(equals):
            raise UserError(f"knockout '{word}': missing needs a rate, and only it, as missing=0.3")
        share = _rate(word, rate) if equals else 1.0
        parts += [(m, how, share) for m in (modalities if name == "*" else (name,))]
    return parts


def knock_out(data: Dataset, spec: str, seed: int = 0) -> Dataset:
    """``data`` with its features knocked out as ``spec`` says, see the top of this module.

    What is drawn depends on the seed, the modality and the way only: ``*:shuffle`` gives each
    modality the rows that ``MODALITY:shuffle`` gives it. Where missing rows were imputed, so are
    those that go missing now.

    Raises:
      UserError: a spec of another form, or a ready-made item graph of which nobody knows whether
        it was made of the features.
    """
    parts = parse(spec, data.spec.modalities)
    if foreign := sorted(set(data.item_graphs) - set(data.features)):
        raise UserError(
            f"knockout '{spec}': the ready-made item graph '{foreign[0]}' may still tell what is "
            "knocked out; leave it out of config.data.item_graphs, or name its file after a "
            f"modality ({', '.join(data.features)}) to have it follow"
        )
    features, present = dict(data.features), dict(data.present)
    graphs, rows = dict(data.item_graphs), {}
    for name, how, rate in parts:
        rng = np.random.default_rng([seed, zlib.crc32(f"{name}:{how}".encode())])
        count = int(present[name].sum())
        rows[f"{name}:{how}"] = round(rate * count)
        source = _drawn(rng, how, rate, present[name])
        if name in graphs:
            graphs[name] = _follow(graphs[name], how, source)
        features[name] = _changed(rng, how, features[name], present[name], source)
        present[name] = source >= 0
    notes = {"spec": spec, "seed": seed, "rows": rows}
    changed = _with(data, features, present, {"knockout": notes}, item_graphs=graphs)
    return impute(changed, data.notes["imputed"]["how"]) if "imputed" in data.notes else changed


def _drawn(rng: np.random.Generator, how: str, rate: float, present: np.ndarray) -> np.ndarray:
    """Whose row each item gets, int64 [I]; -1 for none."""
    items = np.flatnonzero(present)
    source = np.where(present, np.arange(len(present)), -1)
    if how in ("shuffle", "noise"):
        source[items] = rng.permutation(items)
    elif how == "missing":
        source[rng.permutation(items)[: round(rate * len(items))]] = -1
    return source


def _changed(
    rng: np.random.Generator, how: str, x: np.ndarray, present: np.ndarray, source: np.ndarray
) -> np.ndarray:
    """Features [I, F] after a knock-out; rows of items without one are zero."""
    new = np.zeros_like(x)
    if how in ("shuffle", "missing"):
        new[source >= 0] = x[source[source >= 0]]
    elif how != "zero" and present.any():
        rows = x[present].astype(np.float64)
        new[present] = rows.mean(0)
        if how == "noise":
            new[present] += (rows.std(0) * rng.standard_normal(rows.shape)).astype(x.dtype)
    return new


def _follow(edges: _Edges, how: str, source: np.ndarray) -> _Edges:
    """A ready-made graph of the features, after they were knocked out."""
    place = np.full(len(source), -1, np.int32)  # where each row went
    if how not in ("zero", "mean"):
        place[source[source >= 0]] = np.flatnonzero(source >= 0)
    row, col, weight = place[edges[0]], place[edges[1]], edges[2]
    stays = (row >= 0) & (col >= 0)
    return row[stays], col[stays], weight[stays]


def impute(data: Dataset, how: str) -> Dataset:
    """``data`` with rows in place of missing ones, which then count as present.

    Args:
      data: the data set.
      how: ``zero`` leaves missing rows zero and missing. ``mean`` takes the mean of the rows that
        are present. ``knn`` takes the mean of those of the ``NEIGHBOURS`` items with the most
        similar other modalities: by cosine, averaged over the modalities that both items have.
        ``graph`` propagates over the graph of items with training users in common: the mean of
        the rows that a random walk along it meets first, within ``STEPS`` steps.

    Returns:
      The data; its notes say how many rows were filled. What has no such neighbour stays missing.

    Raises:
      UserError: another ``how``, or ``knn`` without a second modality.
    """
    _check(f"config.data.impute={how}", how, IMPUTE, "way to impute")
    if how == "zero":
        return data
    if how == "knn" and len(data.features) == 1:
        raise UserError(
            f"config.data.impute=knn compares items by their other modalities, but {data.name} "
            f"has only {', '.join(data.features)}; use mean or graph"
        )
    unit = {name: _unit(x) for name, x in data.features.items()} if how == "knn" else {}
    features, present = {}, {}
    for name, x in data.features.items():
        missing, known = np.flatnonzero(~data.present[name]), np.flatnonzero(data.present[name])
        new, filled = np.zeros((len(missing), x.shape[1]), x.dtype), np.zeros(len(missing), bool)
        if len(missing) and len(known):
            if how == "mean":
                new[:], filled[:] = x[known].mean(0, dtype=np.float64), True
            elif how == "graph":
                new, filled = _propagated(x, missing, known, data.train, data.spec.num_users)
            else:
                others = {n: unit[n] for n in unit if n != name}
                new, filled = _nearest(x, missing, known, others, data.present)
        features[name], present[name] = x.copy(), data.present[name].copy()
        features[name][missing[filled]] = new[filled]
        present[name][missing[filled]] = True
    filled = {name: int((present[name] & ~data.present[name]).sum()) for name in present}
    return _with(data, features, present, {"imputed": {"how": how, "rows": filled}})


def _propagated(
    x: np.ndarray, missing: np.ndarray, known: np.ndarray, train: Interactions, num_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [M, F] of the ``missing`` items by propagation, and bool [M]: whether any arrived."""
    ones = np.ones(len(train), np.float32)
    seen = sparse.csr_matrix((ones, (train.user, train.item)), (num_users, len(x)))
    seen.data[:] = 1  # an item that a user had twice is one item in common
    lost = seen[:, missing]
    users = np.flatnonzero(lost.getnnz(axis=1))
    seen, lost = seen[users], lost[users]
    own = lost.getnnz(axis=0)[:, None].astype(np.float32)
    around = lost.T @ seen.sum(axis=1).A1[:, None] - own  # items in common, with repeats
    shares = np.divide(1, around, out=np.zeros_like(around), where=around > 0)
    rows = np.concatenate([x[known], np.ones((len(known), 1), x.dtype)], axis=1)
    arriving = lost.T @ (seen[:, known] @ rows)  # the last column counts walks that have ended
    state = np.zeros_like(arriving)
    for _ in range(STEPS):
        state = shares * (arriving + lost.T @ (lost @ state) - own * state)
    mass = state[:, -1:]
    new = np.divide(state[:, :-1], mass, out=np.zeros_like(state[:, :-1]), where=mass > 0)
    return new, mass[:, 0] > 0


def _nearest(
    x: np.ndarray,
    missing: np.ndarray,
    known: np.ndarray,
    others: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows [M, F] of the ``missing`` items from similar ones, and bool [M]: if there are any.

    ``others`` are the other modalities, their rows of length one.
    """
    unit = {name: jnp.asarray(rows) for name, rows in others.items()}
    has = {name: jnp.asarray(present[name], jnp.float32) for name in others}
    known_items = jnp.asarray(known)

    def nearest(item):
        inner = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        shared = sum(has[n][item] * has[n][known_items] for n in unit)
        cosine = sum(inner(unit[n][known_items], unit[n][item]) for n in unit)
        similarity = jnp.where(shared > 0, cosine / jnp.maximum(shared, 1), -jnp.inf)
        value, place = jax.lax.top_k(similarity, min(NEIGHBOURS, len(known)))
        return value > -jnp.inf, place

    found, place = map(np.asarray, jax.lax.map(nearest, jnp.asarray(missing), batch_size=256))
    count = found.sum(1)
    share = (found / np.maximum(count, 1)[:, None]).astype(np.float32)
    rows = np.repeat(np.arange(len(missing)), place.shape[1])
    weights = sparse.csr_matrix(
        (share.ravel(), (rows, place.ravel())), shape=(len(missing), len(known))
    )
    return np.asarray(weights @ x[known], x.dtype), count > 0


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows [I, F] scaled to length one; zero rows stay zero."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _with(data: Dataset, features, present, notes: Mapping, **parts) -> Dataset:
    """``data`` with other features, and notes that tell so."""
    lost = {name: int((~rows).sum()) for name, rows in present.items()}
    notes = {**data.notes, "missing_feature_rows": lost, **notes}
    return dataclasses.replace(data, features=features, present=present, notes=notes, **parts)


def _check(word: str, given: str, known: tuple[str, ...], what: str) -> None:
    """Raises a UserError if ``given`` is not among ``known``."""
    if given not in known:
        close = difflib.get_close_matches(given, known, n=1)
        meant = f"did you mean '{close[0]}'? " if close else ""
        raise UserError(f"'{word}': no {what} '{given}'; {meant}known: {', '.join(known)}")


def _rate(word: str, text: str) -> float:
    """A share from 0 to 1."""
    try:
        rate = float(text)
    except ValueError:
        rate = np.nan
    if not 0 <= rate <= 1:
        raise UserError(f"knockout '{word}': the rate is '{text}'; give a share from 0 to 1")
    return rate
