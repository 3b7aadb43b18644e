"""The nouns that every other module shares.

Shape letters, used in comments and docstrings throughout the package:

    U users    I items    E interactions (edges)    N = U + I nodes of the user-item graph
    B batch    L positions of a sequence            T target items of a query
    D embedding width    F feature width            K neighbours, or the cut of a ranked list
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from flax.core import FrozenDict

Array = jax.Array
PyTree = Any


class UserError(ValueError):
    """A mistake the user can mend: the launcher prints it as one line and exits with status 2."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that a method needs to size itself; static and hashable.

    Attributes:
      num_users: U.
      num_items: I.
      max_len: L, the longest history a sequence method reads.
      feature_dims: ``(name, F)`` of every modality, in a fixed order.
      fields: ``(name, vocabulary size)`` of every field of the impressions beside user and item.
      codes: codebook size of every level of a semantic id.
    """

    num_users: int
    num_items: int
    max_len: int = 50
    feature_dims: tuple[tuple[str, int], ...] = ()
    fields: tuple[tuple[str, int], ...] = ()
    codes: tuple[int, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in order."""
        return tuple(name for name, _ in self.feature_dims)


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Parallel host arrays, one entry per interaction.

    Attributes:
      user: int32 [E].
      item: int32 [E].
      time: int64 [E] (any monotone unit), or None where unknown.
      rating: float32 [E], or None where unknown.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None = None
    rating: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: np.ndarray) -> Interactions:
        """The interactions at ``index`` (integers or a mask), in that order."""
        pick = lambda a: None if a is None else a[index]
        return Interactions(self.user[index], self.item[index], pick(self.time), pick(self.rating))

    def of(self, asked: np.ndarray) -> Interactions:
        """Those of the users that are marked in ``asked`` bool [U]."""
        return self.take(asked[self.user])

    def user_counts(self, num_users: int) -> np.ndarray:
        """Interactions of each user, int [U]."""
        return np.bincount(self.user, minlength=num_users)

    def item_counts(self, num_items: int) -> np.ndarray:
        """Interactions with each item, int [I]."""
        return np.bincount(self.item, minlength=num_items)

    def rows(self, num_users: int) -> tuple[np.ndarray, np.ndarray]:
        """Compressed rows: ``(indptr int64 [U+1], item int32 [E])``, items ascending in a user."""
        order = np.lexsort((self.item, self.user))
        counts = np.bincount(self.user, minlength=num_users)
        return np.concatenate([[0], np.cumsum(counts)]), self.item[order]


@dataclasses.dataclass(frozen=True)
class Impressions:
    """Items that were shown, with what came of it; parallel host arrays, one entry each.

    Attributes:
      user: int32 [E].
      item: int32 [E].
      time: int64 [E], any monotone unit.
      fields: int32 [E, F], a value of each of ``Spec.fields``; 0 where it is unknown in training.
      click: float32 [E], 0 or 1.
      conversion: float32 [E], 0 or 1 and 1 only after a click; None where not recorded.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    fields: np.ndarray
    click: np.ndarray
    conversion: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: np.ndarray) -> Impressions:
        """The impressions at ``index`` (integers or a mask), in that order."""
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Impressions(*(None if part is None else part[index] for part in parts))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A validated, split data set on the host.

    Attributes:
      name: what the results call it.
      spec: the sizes.
      train, valid, test: the split; ids are 0..U-1 and 0..I-1.
      features: float32 [I, F] by modality; row i describes item i, missing rows are zero.
      present: bool [I] by modality; False where the feature row is missing.
      user_ids, item_ids: the user's own ids; entry n is the id of user or item n.
      titles: a readable name per item, or None.
      codes: semantic codes of the items, int32 [I, C], no two alike; None where there are none.
      item_graphs: ready-made item graphs by name, ``(row, col, weight)`` in item numbers.
      impressions: those of "train", "valid" and "test", whose clicks are the interactions; empty
        unless asked for (``config.data.impressions``).
      known: the training interactions that queries mask and have as histories, where these are
        fewer than ``train`` (``config.data.leak``); None: all of them.
      notes: JSON-able facts about origin, split and filtering, copied into every result.
    """

    name: str
    spec: Spec
    train: Interactions
    valid: Interactions
    test: Interactions
    user_ids: np.ndarray
    item_ids: np.ndarray
    features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    present: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    titles: np.ndarray | None = None
    codes: np.ndarray | None = None
    item_graphs: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict
    )
    impressions: Mapping[str, Impressions] = dataclasses.field(default_factory=dict)
    known: Interactions | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_frames(cls, interactions, features=None, **options) -> Dataset:
        """A data set from memory: see :func:`mmrec_jax.data.from_frames`."""
        from mmrec_jax import data  # readers need pandas, which methods do not

        return data.from_frames(interactions, features, **options)

    def need_features(self, who: str = "the method") -> None:
        """Raises a UserError, which says that ``who`` needs item features, where there are none."""
        if not self.features:
            raise UserError(f"{self.name}: {who} needs item features; name some in data.features")


@struct.dataclass
class Context:
    """What a method reads but does not learn; lives on the device and is passed into every call.

    Attributes:
      features: float32 [I, F] by modality, missing rows zero.
      present: bool [I] by modality.
      graphs: sparse matrices by name (``ops.graph.Adjacency``).
      tables: any other array by name.
    """

    features: dict[str, Array] = struct.field(default_factory=dict)
    present: dict[str, Array] = struct.field(default_factory=dict)
    graphs: dict[str, Any] = struct.field(default_factory=dict)
    tables: dict[str, Array] = struct.field(default_factory=dict)

    @classmethod
    def of(cls, data: Dataset, **parts) -> Context:
        """A context that carries the features of ``data`` and whatever else is given."""
        move = lambda arrays: {name: jnp.asarray(value) for name, value in arrays.items()}
        return cls(features=move(data.features), present=move(data.present), **parts)


@struct.dataclass
class TrainState:
    """Everything a run needs to go on: the checkpoint's content.

    Attributes:
      params: learned arrays.
      collections: other linen collections (momentum copies, running statistics).
      opt_state: the optimiser's state.
      key: typed PRNG key of the run; epochs and steps are folded into it, it never changes.
      epoch: int32 [], epochs done.
    """

    params: PyTree
    collections: PyTree
    opt_state: PyTree
    key: Array
    epoch: Array


@struct.dataclass
class Query:
    """One block of ranking queries; every array has the same shape in every block.

    Attributes:
      user: int32 [B]; padding queries have ``valid`` False.
      valid: bool [B].
      target: int32 [B, T], held-out items, padded with -1.
      history_row, history_item: int32 [M], the block's known interactions as (query number,
        item) pairs, padded with query number B: what row-based methods read.
      masked_row, masked_item: int32 [M'], pairs that may not be recommended, padded likewise.
      sequence: int32 [B, L], the latest items, oldest first, padded on the left with -1;
        L is 0 where the task keeps no order.
      times: int32 [B, L + 1], when these items were chosen and when the query is asked
        (``queries.moments``); None where that is not known.
    """

    user: Array
    valid: Array
    target: Array
    history_row: Array
    history_item: Array
    masked_row: Array
    masked_item: Array
    sequence: Array
    times: Array | None = None


class Recommender(nn.Module):
    """Abstract method; subclasses are final and their fields are their hyper-parameters.

    A subclass names its ``task`` (a module of ``mmrec_jax.tasks``) and defines ``represent``,
    ``loss`` and ``score``. All three must reach every parameter through ``setup``. Float fields
    may be traced values, so that a sweep can map over them.

    Attributes:
      spec: the sizes of the data.
      tables: what stands in for the embedding tables ``"user"`` and ``"item"``, for those that are
        no id tables; see ``mmrec_jax.tables``. One module may serve both.
    """

    spec: Spec
    tables: Mapping[str, nn.Module] = dataclasses.field(default=FrozenDict(), kw_only=True)

    task: ClassVar[str]

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        """Builds, once and on the host, what the method reads; ``hyper`` are its fields."""
        del hyper
        return Context.of(data)

    def refresh(self, ctx: Context) -> Context:
        """The context of one epoch, derived inside the compiled epoch (edge dropping and such)."""
        return ctx

    def represent(self, ctx: Context) -> PyTree:
        """Whatever is worth computing once per evaluation."""
        raise NotImplementedError

    def loss(self, batch: PyTree, ctx: Context) -> tuple[Array, dict[str, Array]]:
        """Scalar training loss of a batch, and its parts by name for the log."""
        raise NotImplementedError

    def score(self, rep: PyTree, query: Query) -> Array:
        """Preference of every query for every item, [B, I]."""
        raise NotImplementedError

    def rank(self, rep: PyTree, query: Query, k: int) -> tuple[Array, Array]:
        """The k best items of each query, best first, int32 [B, k], and their scores [B, k].

        Ties stand by smaller item; places that no item is left for hold -1.
        """
        from mmrec_jax.ops import topk

        return topk.best(self.score(rep, query), query, k)

    def table(
        self, name: str, dim: int, init: Callable = nn.initializers.xavier_uniform()
    ) -> Array:
        """The embedding table ``"user"`` [U, D] or ``"item"`` [I, D]; call it from ``setup``.

        An id table is the parameter ``name``; what stands in for it has its parameters below
        ``tables_NAME``, and below ``tables_item`` if it serves both.
        """
        rows = {"user": self.spec.num_users, "item": self.spec.num_items}[name]
        if name in self.tables:
            return self.tables[name](name, rows, dim, init)
        return self.param(name, init, (rows, dim))
