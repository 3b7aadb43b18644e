"""A made-up data set with a planted truth that methods can find.

Users and items have factors; an interaction is a draw from the items that are popular and lie
near the user's factors of the moment, which drift from a first to a last taste. Each modality
shows part of the items' factors through a random projection and noise.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

import numpy as np

from mmrec_jax.data.table import Features, Table
from mmrec_jax.types import UserError

_SHOWN = 4  # impressions per interaction that is asked for; about so many are not clicked
_CANDIDATES = 32  # items that compete for one interaction
_ROUNDS = 8  # of drawing, after which a user's repeats of an item are dropped
_BLOCK = 1 << 16  # interactions drawn at a time, which bounds memory
_START, _YEAR = 1_500_000_000, 365 * 86_400  # seconds


def make(
    *,
    num_users: int = 1000,
    num_items: int = 600,
    mean_interactions: float = 20.0,
    factors: int = 16,
    image_dim: int = 64,
    text_dim: int = 32,
    noise: float = 0.5,
    taste: float = 10.0,
    drift: float = 0.3,
    popularity: float = 0.6,
    cold: float = 0.05,
    missing: float = 0.05,
    seed: int = 0,
) -> Table:
    """Draws a data set; the keyword arguments are the keys of ``config.data.knobs``.

    Interactions carry labels: of each user's, in the order of time, the last tenth tests and the
    tenth before validates (one each at least, unless repeats were dropped); cold items occur only
    there. ``image`` shows the first two thirds of an item's factors and ``text`` the last two
    thirds. Fields are the user's ``user_group`` and the item's ``item_genre``, each its strongest
    factor, and the ``hour``.

    Raises:
      UserError: a size that is too small or a share outside 0..1.
    """
    _check(locals())
    streams = np.random.default_rng(seed).spawn(5)
    first, last, items = _factors(streams[0], num_users, num_items, factors, drift)
    user, place, count = _events(streams[1], num_users, num_items, mean_interactions)
    is_cold = np.zeros(num_items, bool)
    is_cold[streams[2].permutation(num_items)[: int(cold * num_items)]] = True
    weight = (1.0 + streams[2].permutation(num_items)) ** -popularity

    held = place >= count - _held_out(count)
    progress = (place / np.maximum(count - 1, 1)).astype(np.float32)
    item = np.empty(len(user), np.int64)
    repeats = np.ones(len(user), bool)
    change = last - first
    mood = lambda at: taste * (first[user[at]] + progress[at, None] * change[user[at]])
    for _ in range(_ROUNDS):
        for allowed, part in ((weight * ~is_cold, ~held), (weight, held)):
            rows = np.flatnonzero(repeats & part)
            item[rows] = _draw(streams[3], mood, rows, items, allowed)
        keep = _first_of_pair(user * num_items + item)
        repeats[keep] = False
    time = _times(streams[4], user, place, count, num_users)
    user, item, time = user[keep], item[keep], time[keep]
    fields = {
        "user_group": np.abs(first).argmax(1)[user],
        "item_genre": np.abs(items).argmax(1)[item],
        "hour": time // 3600 % 24,
    }
    return Table(
        name="synthetic",
        user=user,
        item=item,
        time=time,
        label=_label(user, held[keep], num_users),
        user_ids=np.arange(num_users),
        item_ids=np.arange(num_items),
        features=_features(streams[2], items, (image_dim, text_dim), noise, missing),
        fields={name: values.astype(np.int32) for name, values in fields.items()},
        origin="synthetic",
        notes={"source": "synthetic", "layout": "synthetic"},
    )


def impressions(**knobs) -> Table:
    """Draws impressions with fields; the knobs are those of :func:`make`.

    A user sees four items for each of ``mean_interactions``, drawn by popularity alone. A click
    depends on the factors, as there; on the pair of the user's ``user_group`` and the item's
    ``item_genre``; on the latter and the ``hour``, each genre having its time of day; on the
    ``device``; and on how clickable the item is. A conversion depends on the ``price`` and on what
    the user's group can pay. Labels, cold items and features are as in :func:`make`.
    """
    given = {n: p.default for n, p in inspect.signature(make).parameters.items()} | knobs
    _check(given)
    size, rng = (given["num_users"], given["num_items"]), np.random.default_rng(given["seed"])
    streams = rng.spawn(6)
    first, last, items = _factors(streams[0], *size, given["factors"], given["drift"])
    user, place, count = _events(
        streams[1], size[0], _SHOWN * size[1], _SHOWN * given["mean_interactions"]
    )
    held = place >= count - _held_out(count)
    item = _shown_items(streams[2], held, size[1], given["popularity"], given["cold"])
    time = _times(streams[3], user, place, count, size[0])
    draw = streams[4]
    fields = {
        "user_group": first.argmax(1)[user],
        "item_genre": items.argmax(1)[item],
        "price": np.round(np.exp(draw.standard_normal(size[1])) * 20, 2)[item],
        "hour": time // 3600 % 24,
        "device": draw.integers(0, 3, len(user)),
    }
    mood = first[user] + (place / np.maximum(count - 1, 1))[:, None] * (last - first)[user]
    liking = given["taste"] / 2 * np.einsum("ef,ef->e", mood, items[item])
    width, genre = given["factors"], fields["item_genre"]
    liking += draw.standard_normal((width, width))[fields["user_group"], genre]
    phase = draw.uniform(0, 2 * np.pi, width)[genre]
    liking += 1.5 * np.cos(2 * np.pi * fields["hour"] / 24 - phase)
    liking += np.array([0.3, 0.0, -0.5])[fields["device"]]
    liking += 0.5 * draw.standard_normal(size[1])[item]
    click = draw.random(len(user)) < _sigmoid(liking - 1.8)
    means = 20 * np.exp(draw.standard_normal(width))[fields["user_group"]]
    buys = draw.random(len(user)) < _sigmoid(1.5 * np.log(means / fields["price"]) - 0.5)
    return Table(
        name="synthetic_impressions",
        user=user,
        item=item,
        time=time,
        label=_label(user, held, size[0]),
        user_ids=np.arange(size[0]),
        item_ids=np.arange(size[1]),
        features=_features(
            streams[5], items, (given["image_dim"], given["text_dim"]), given["noise"],
            given["missing"],
        ),
        fields=fields,
        click=click.astype(np.int8),
        conversion=(click & buys).astype(np.int8),
        origin="synthetic",
        notes={"source": "synthetic", "layout": "synthetic impressions"},
    )  # fmt: skip


def _shown_items(rng, held: np.ndarray, num_items: int, popularity: float, cold: float):
    """Items by popularity, int64 [E]; cold ones only where ``held``, bool [E]."""
    is_cold = np.zeros(num_items, bool)
    is_cold[rng.permutation(num_items)[: int(cold * num_items)]] = True
    weight = (1.0 + rng.permutation(num_items)) ** -popularity
    item = np.empty(len(held), np.int64)
    for allowed, rows in ((weight * ~is_cold, ~held), (weight, held)):
        item[rows] = rng.choice(num_items, rows.sum(), p=allowed / allowed.sum())
    return item


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def check_knobs(knobs) -> dict:
    """The knobs as keyword arguments of :func:`make`.

    Raises:
      UserError: a knob that does not exist, with the nearest that does.
    """
    known = list(inspect.signature(make).parameters)
    for name in knobs:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(known)}"
            raise UserError(f"config.data.knobs.{name}: the synthetic set has no such knob; {hint}")
    return dict(knobs)


def _check(knobs: dict) -> None:
    """Raises a UserError for the first knob out of range."""
    least = {"num_users": 1, "num_items": 10, "mean_interactions": 3, "factors": 3}
    least |= {"image_dim": 1, "text_dim": 1, "noise": 0, "taste": 0, "popularity": 0, "seed": 0}
    for name, value in knobs.items():
        low, high = least.get(name, 0), float("inf") if name in least else 1
        if not low <= value <= high:
            span = f"at least {low}" if name in least else "between 0 and 1"
            raise UserError(f"config.data.knobs.{name} is {value}; give {span}")


def _factors(rng, num_users: int, num_items: int, width: int, drift: float):
    """First and last taste of every user [U, D] and the items' factors [I, D], rows of length 1."""
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    # A few strong factors in each row give the groups of like-minded users that real data have.
    peaked = lambda n: unit(rng.standard_normal((n, width)) ** 3)
    first, items = peaked(num_users), peaked(num_items)
    return first, unit((1 - drift) * first + drift * peaked(num_users)), items


def _events(rng, num_users: int, num_items: int, mean: float):
    """User, place in the user's sequence and length of that sequence, int64 [E] each."""
    counts = np.rint(rng.gamma(2.0, (mean - 3) / 2, num_users)).astype(np.int64) + 3
    counts = np.minimum(counts, max(3, num_items // 3))
    user = np.repeat(np.arange(num_users), counts)
    return user, np.arange(len(user)) - (np.cumsum(counts) - counts)[user], counts[user]


def _held_out(count: np.ndarray) -> np.ndarray:
    """How many of a user's last interactions do not train."""
    return 2 * np.maximum(count // 10, 1)


def _draw(rng, mood: Callable, rows: np.ndarray, items: np.ndarray, weight: np.ndarray):
    """One item for each of ``rows`` [E], int64 [E]: the Gumbel-best of candidates by popularity.

    ``mood`` gives the factors [B, D] that B of the rows prefer.
    """
    bounds = np.cumsum(weight) / weight.sum()
    gathered = np.empty((min(_BLOCK, len(rows)), _CANDIDATES, items.shape[1]), items.dtype)
    drawn = np.empty(len(rows), np.int64)
    guide = _guide(bounds)
    for start in range(0, len(rows), _BLOCK):
        block = mood(rows[start : start + _BLOCK])
        picks = _search(bounds, guide, rng.random((len(block), _CANDIDATES)))
        near = np.take(items, picks, axis=0, out=gathered[: len(block)], mode="clip")
        score = np.einsum("bd,bcd->bc", block, near)
        best = (score + rng.gumbel(size=score.shape)).argmax(axis=1)
        drawn[start : start + _BLOCK] = np.take_along_axis(picks, best[:, None], 1)[:, 0]
    return drawn


def _guide(bounds: np.ndarray) -> np.ndarray:
    """The first of ``bounds`` [I] above each of G equal steps from 0 to 1, int64 [G]."""
    steps = 1 << len(bounds).bit_length()  # a power of two, so that no product is rounded
    return np.searchsorted(bounds, np.arange(steps) / steps, side="right")


def _search(bounds: np.ndarray, guide: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The first of ``bounds`` [I] above each value, at most the last; int64, of their shape.

    What a binary search finds, ten times as fast with a million bounds: ``guide`` says where to
    begin, and few steps are left.
    """
    flat = values.reshape(-1)
    place = np.minimum(guide[(flat * len(guide)).astype(np.int64)], len(bounds) - 1)
    below = np.arange(len(flat))
    while len(below):
        here = place[below]
        below = below[(bounds[here] <= flat[below]) & (here < len(bounds) - 1)]
        place[below] += 1
    return place.reshape(values.shape)


def _times(rng, user, place, count, num_users: int) -> np.ndarray:
    """Seconds, int64 [E], rising within a user, whose spell lies somewhere in two years."""
    begin = _START + rng.integers(0, _YEAR, num_users)
    step = rng.integers(_YEAR // 4, _YEAR, num_users)[user] // count
    return begin[user] + step * place + rng.integers(0, np.maximum(step, 1))


def _first_of_pair(key: np.ndarray) -> np.ndarray:
    """Indices of the first occurrence of each key, ascending."""
    return np.sort(np.unique(key, return_index=True)[1])


def _label(user: np.ndarray, held: np.ndarray, num_users: int) -> np.ndarray:
    """Labels int8 [E]: of a user's held-out interactions the later half tests."""
    counts = np.bincount(user[held], minlength=num_users)
    rows = np.flatnonzero(held)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[user[rows]]
    label = held.astype(np.int8)
    label[rows] += place >= counts[user[rows]] // 2
    return label


def _features(rng, items, widths: tuple[int, int], noise: float, missing: float):
    """Two projections of overlapping parts of the factors, without the rows that are missing."""
    num_items, width = items.shape
    part = (2 * width + 2) // 3
    scaled = items * np.sqrt(width)
    modalities = {}
    for name, seen, out in zip(
        ("image", "text"), (scaled[:, :part], scaled[:, -part:]), widths, strict=True
    ):
        values = seen @ rng.standard_normal((part, out)) / np.sqrt(part)
        values += noise * rng.standard_normal(values.shape)
        ids = np.sort(rng.permutation(num_items)[int(missing * num_items) :])
        modalities[name] = Features(values[ids].astype(np.float32), ids, f"synthetic {name}")
    return modalities
