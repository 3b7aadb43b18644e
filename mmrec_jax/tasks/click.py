"""Click task: impressions with fields, and the probability that each is clicked.

A method defines ``logits(examples, deterministic)``, [B] for the click or a tuple of two for click
and conversion, and ``predict(rep, query)``, the probabilities by outcome: ``{"click": [B]}``, for a
method of two tasks also ``"conversion"``, that of a conversion after a click.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from mmrec_jax.ops import interact
from mmrec_jax.types import Array, Context, Dataset, Impressions, Query, Spec, UserError

METRICS = ("auc", "gauc", "logloss")  # each of clicks, and after these words of conversions:
CONVERSIONS = ("ctcvr_", "cvr_")  # over all impressions, over clicked ones
_CHUNK = 2**14  # examples scored at a time when items are ranked


@struct.dataclass
class Examples:
    """B impressions without what came of them.

    Attributes:
      user, item: int32 [B].
      fields: int32 [B, F], a value of each of ``Spec.fields``.
      history: int32 [B, L], the items that the user clicked before, padded with -1.
    """

    user: Array
    item: Array
    fields: Array
    history: Array

    def vectors(self, user: Array, item: Array, values: Array, spec: Spec) -> Array:
        """A vector for each field, [B, 3 + F, D]: user, item, mean of the history, and the others.

        Args:
          user: [U, D].
          item: [I, D], shared by the item and the history.
          values: [V, D], the values of all fields one after the other.
          spec: has the sizes of the fields.
        """
        past = interact.mean_pool(item[jnp.maximum(self.history, 0)], self.history >= 0)
        own = jnp.stack([user[self.user], item[self.item], past], axis=1)
        sizes = [size for _, size in spec.fields]
        start = np.cumsum([0, *sizes])[:-1].astype(np.int32)
        return jnp.concatenate([own, values[self.fields + start[None]]], axis=1)


def num_values(spec: Spec) -> int:
    """V, values of all fields; at least 1, since a checkpoint holds no empty array."""
    return max(sum(size for _, size in spec.fields), 1)


@struct.dataclass
class Arrays:
    """Training impressions on the device.

    Attributes:
      user, item, fields, click: as in :class:`Examples` and :class:`Batch`, of all E impressions.
      conversion: float32 [E], or None where not recorded.
      begin, end: int32 [E], where in ``clicked`` the user's clicks before this impression stand.
      clicked: int32 [C], items of all training clicks by user and time.
      max_len: L, static.
    """

    user: Array
    item: Array
    fields: Array
    click: Array
    conversion: Array | None
    begin: Array
    end: Array
    clicked: Array
    max_len: int = struct.field(pytree_node=False)


@struct.dataclass
class Batch:
    """B impressions and what came of them.

    Attributes:
      examples: the impressions.
      click: float32 [B], 0 or 1.
      conversion: float32 [B], 0 or 1, or None where not recorded.
      weight: float32 [B], 0 at the padding of the last batch.
    """

    examples: Examples
    click: Array
    conversion: Array | None
    weight: Array


@struct.dataclass
class Shown:
    """One block of impressions to be predicted.

    Attributes:
      user: int32 [B].
      valid: bool [B], False at padding.
      examples: the impressions.
      click, conversion: as in :class:`Batch`.
    """

    user: Array
    valid: Array
    examples: Examples
    click: Array
    conversion: Array | None


def prepare(data: Dataset, config) -> Arrays:
    """Moves the training impressions to the device.

    Raises:
      UserError: the data are no impressions.
    """
    del config
    shown = _impressions(data)["train"]
    past = clicks(shown)
    begin, end = before(shown, past)
    move = lambda x: None if x is None else jnp.asarray(x)
    return Arrays(
        *map(move, (shown.user, shown.item, shown.fields, shown.click, shown.conversion)),
        begin=jnp.asarray(begin, jnp.int32),
        end=jnp.asarray(end, jnp.int32),
        clicked=jnp.asarray(past.item),
        max_len=data.spec.max_len,
    )


def clicks(*parts: Impressions) -> Impressions:
    """The clicked ones of all ``parts``, by user, then time."""
    clicked = [part.take(part.click > 0) for part in parts]
    joined = lambda name: np.concatenate([getattr(part, name) for part in clicked])
    past = Impressions(*map(joined, ("user", "item", "time", "fields", "click")))
    return past.take(np.lexsort((past.time, past.user)))


def before(shown: Impressions, past: Impressions) -> tuple[np.ndarray, np.ndarray]:
    """Where in ``past``, as of :func:`clicks`, each user's clicks begin, and those before end.

    Before means strictly earlier, so that neither the impression itself nor what was shown at the
    same time, let alone later, is known.

    Returns:
      Two int64 [E].
    """
    moments = np.unique(np.concatenate([shown.time, past.time]))
    rank = lambda part: np.searchsorted(moments, part.time)
    key = lambda user, place: user.astype(np.int64) * len(moments) + place
    known = key(past.user, rank(past))
    begin = np.searchsorted(known, key(shown.user, 0))
    return begin, np.searchsorted(known, key(shown.user, rank(shown)))


def windows(clicked, begin, end, length: int):
    """The latest ``length`` of ``clicked[begin:end]``, padded on the left with -1, int32 [B, L].

    Arrays of NumPy or JAX alike, with ``begin`` and ``end`` [B].
    """
    numpy = jnp if isinstance(clicked, Array) else np
    place = end[:, None] + numpy.arange(-length, 0)[None]
    known = place >= begin[:, None]
    return numpy.where(known, clicked[numpy.where(known, place, 0)] if clicked.size else -1, -1)


def size(arrays: Arrays) -> int:
    """Training examples in an epoch: E."""
    return arrays.user.shape[0]


def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
    """The impressions at ``index`` int32 [B]; ``weight`` is 0 where one only fills up."""
    del key
    history = windows(arrays.clicked, arrays.begin[index], arrays.end[index], arrays.max_len)
    conversion = None if arrays.conversion is None else arrays.conversion[index]
    examples = Examples(arrays.user[index], arrays.item[index], arrays.fields[index], history)
    return Batch(examples, arrays.click[index], conversion, weight)


def queries(data: Dataset, split: str, config) -> Shown:
    """All impressions of a split in blocks, with the clicks of earlier parts as histories.

    Raises:
      UserError: GAUC is asked for and no user has both kinds of impressions.
    """
    parts = _impressions(data)
    shown = parts[split]
    _check_groups(shown, split, data.name, config.eval.metrics)
    past = clicks(*([parts["train"]] if split == "valid" else [parts["train"], parts["valid"]]))
    history = windows(past.item, *before(shown, past), data.spec.max_len)
    block = min(config.eval.block, len(shown))
    count = -(-len(shown) // block)
    fill = lambda x: np.concatenate([x, np.zeros((count * block - len(x), *x.shape[1:]), x.dtype)])
    cut = lambda x: fill(x).reshape(count, block, *x.shape[1:])
    return Shown(
        user=cut(shown.user),
        valid=cut(np.ones(len(shown), bool)),
        examples=Examples(*map(cut, (shown.user, shown.item, shown.fields, history))),
        click=cut(shown.click),
        conversion=None if shown.conversion is None else cut(shown.conversion),
    )


def _impressions(data: Dataset) -> dict[str, Impressions]:
    if not data.impressions:
        raise UserError(
            f"{data.name} has no impressions; set config.data.impressions, and see "
            "config.data.columns.click and config.data.click_rating"
        )
    return dict(data.impressions)


def _check_groups(shown: Impressions, split: str, name: str, metrics) -> None:
    """Raises a UserError where a mean over users that have both kinds has no user."""
    count, clicked = np.bincount(shown.user), np.bincount(shown.user, shown.click)
    if "gauc" in metrics and not ((clicked > 0) & (clicked < count)).any():
        raise UserError(
            f"{name}: no user has both clicked and ignored impressions in {split}, so that gauc "
            "is not defined; leave it out of config.eval.metrics, or set another config.data.split"
        )


def measure(model, variables, rep, query: Shown, names, ks) -> dict[str, Array]:
    """Outcomes and their probabilities, float32 [B] by name: ``click`` and ``pctr``.

    Where ``names`` has a metric of conversions, also ``conversion`` and ``pcvr``.

    Raises:
      UserError: it has, but the method predicts none or the data have none.
    """
    del ks
    predicted = model.apply(variables, rep, query, method="predict")
    measured = {"click": query.click, "pctr": predicted["click"]}
    if any(name.startswith(CONVERSIONS) for name in names):
        if "conversion" not in predicted or query.conversion is None:
            raise UserError(
                f"config.eval.metrics names conversions, which {type(model).__name__} does not "
                f"predict or the data do not have; leave only {', '.join(METRICS)}"
            )
        measured |= {"conversion": query.conversion, "pcvr": predicted["conversion"]}
    return {name: value.astype(jnp.float32) for name, value in measured.items()}


ENTITY = "user"  # whose impressions they are


def labels(config) -> list[str]:
    """Names of the metrics that ``config.eval`` asks for.

    Raises:
      UserError: one is not known, or the one to choose by is better when smaller.
    """
    known = [*METRICS, *(kind + name for kind in CONVERSIONS for name in METRICS)]
    for name in config.eval.metrics:
        if name not in known:
            raise UserError(f"config.eval.metrics: {name!r} is none of {', '.join(known)}")
    if config.eval.metric.endswith("logloss"):
        raise UserError("config.eval.metric: the smaller logloss, the better; choose by an auc")
    return list(config.eval.metrics)


def summarise(measured: dict[str, np.ndarray], users: np.ndarray) -> dict[str, float]:
    """AUC, GAUC and log-loss of clicks; and of conversions, over all and over clicked impressions.

    An area that is not defined, for want of a positive or a negative, is left out.
    """
    click, pctr = (measured[name].astype(np.float64) for name in ("click", "pctr"))
    found = quality(users, click, pctr)
    if "conversion" in measured:
        conversion, pcvr = (measured[n].astype(np.float64) for n in ("conversion", "pcvr"))
        both = quality(users, conversion, pctr * pcvr)
        rows = click > 0
        after = quality(users[rows], conversion[rows], pcvr[rows])
        found |= {f"ctcvr_{name}": value for name, value in both.items()}
        found |= {f"cvr_{name}": value for name, value in after.items()}
    return found


def quality(users: np.ndarray, label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """AUC, GAUC and log-loss of predictions [Q] for impressions of ``users``; see `areas`.

    GAUC is the mean of the users' own AUCs, weighted by impressions, over the users that have
    impressions of both kinds (Zhu et al., KDD 2017, https://arxiv.org/abs/1703.02091).
    """
    found = {}
    area, _ = areas(np.zeros(len(users), np.int64), label, probability)
    own, count = areas(users, label, probability)
    if len(area):
        found["auc"] = float(area[0])
    if len(own):
        found["gauc"] = float((own * count).sum() / count.sum())
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    if len(p):
        found["logloss"] = float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))
    return found


def areas(group: np.ndarray, label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve within each group that has both labels, and the group's size.

    Exact: the share of pairs of a positive and a negative in which the positive scores higher,
    ties counting half, from the ranks of the positives (Mann and Whitney, 1947).
    """
    level = np.unique(score, return_inverse=True)[1]
    member = np.unique(group, return_inverse=True)[1]
    key = member.astype(np.int64) * (level.max(initial=0) + 1) + level
    distinct, place, tied = np.unique(key, return_inverse=True, return_counts=True)
    size = np.bincount(member)
    offset = np.cumsum(size) - size
    rank = (np.cumsum(tied) - (tied - 1) / 2)[place] - offset[member]  # ties share their mean
    positive = np.bincount(member, label)
    negative = size - positive
    both = (positive > 0) & (negative > 0)
    wins = np.bincount(member, rank * label) - positive * (positive + 1) / 2
    return wins[both] / (positive * negative)[both], size[both]


def context(data: Dataset) -> Context:
    """What :func:`rank_items` needs: ``user_fields`` int32 [U, F] and ``item_fields`` [I, F].

    Of each field one of the two has the latest value that each user, or item, was seen with, and
    the other zeros. A field is the items' if that repeats their latest value in nine of ten
    impressions, else the users' if so for them; any other is of the moment, and every user gets its
    most frequent value.
    """
    parts = list(_impressions(data).values())
    joined = lambda name: np.concatenate([getattr(part, name) for part in parts])
    user, item, time, fields = map(joined, ("user", "item", "time", "fields"))
    order = np.argsort(time, kind="stable")
    user, item, fields = user[order], item[order], fields[order]
    latest = {}
    for name, index, rows in (
        ("user", user, data.spec.num_users),
        ("item", item, data.spec.num_items),
    ):
        table = np.zeros((rows, fields.shape[1]), np.int32)
        table[index] = fields  # of several values for one row NumPy keeps the last
        latest[name] = table
    repeats = {
        n: (latest[n][i] == fields).mean(0) >= 0.9 for n, i in (("item", item), ("user", user))
    }
    of_items, of_users = repeats["item"], repeats["user"] & ~repeats["item"]
    usual = np.array([np.bincount(column).argmax() for column in fields.T], np.int32)
    of_user = np.where(of_users[None], latest["user"], np.where(of_items, 0, usual)[None])
    of_item = np.where(of_items[None], latest["item"], 0)
    tables = {"user_fields": of_user, "item_fields": of_item}
    return Context(tables={name: jnp.asarray(x, jnp.int32) for name, x in tables.items()})


def rank_items(model: nn.Module, tables: dict[str, Array], query: Query, score: Callable) -> Array:
    """Scores of every item for ranking queries, [B, I], were it shown to the user now.

    Args:
      model: bound; defines ``logits``.
      tables: of :func:`context`.
      query: its ``sequence`` is the history.
      score: from what ``logits`` returns to numbers [B].
    """
    module, variables = model.unbind()
    num_items = tables["item_fields"].shape[0]
    total = query.user.shape[0] * num_items
    chunk = min(_CHUNK, total)
    index = jnp.arange(-(-total // chunk) * chunk) % total  # the last chunk is filled up

    def scores(index: Array) -> Array:
        row, item = index // num_items, index % num_items
        user = query.user[row]
        fields = tables["user_fields"][user] + tables["item_fields"][item]
        examples = Examples(user, item, fields, query.sequence[row])
        return score(module.apply(variables, examples, True, method="logits"))

    values = jax.lax.map(scores, index.reshape(-1, chunk)).reshape(-1)
    return values[:total].reshape(-1, num_items)
