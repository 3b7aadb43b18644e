"""Training interactions that stay on disk, and epochs over them part by part.

A prepared set stored with ``config.data.budget`` has its training interactions user by user, no
user divided between two records. An epoch shuffles the records, deals them into parts that the
budget holds, and trains on one part while the next is read. Since all interactions of a user come
together, negatives are exact within a part. Which records make up a part is a function of the run's
key and the epoch, so that a run that was killed ends as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmrec_jax import hosts
from mmrec_jax.types import Array, Dataset, Interactions, PyTree, TrainState, UserError

_PASS = 256  # records read at a time where all are

Read = Callable[[Sequence[int]], Sequence[Mapping[str, np.ndarray]]]


class Streamed(Interactions):
    """Interactions of which only parts are ever read; times and ratings are left on disk.

    What needs all of them at once, as the graph of a method does, gets a UserError.

    Args:
      read: the columns of the records with these numbers.
      rows: interactions in each record, int [R].
      budget: most interactions to hold at once.
      num_users: U.
      num_items: I.
    """

    def __init__(self, read: Read, rows: np.ndarray, budget: int, num_users: int, num_items: int):
        parts = min(-(-int(rows.sum()) // budget), len(rows))
        facts = {"_read": read, "_rows": rows, "budget": budget, "parts": parts}
        self.__dict__.update(facts, _sizes=(num_users, num_items), _counts=None)

    def __len__(self) -> int:
        return int(self._rows.sum())

    def __repr__(self) -> str:
        return f"{len(self)} interactions on disk, {len(self._rows)} records"

    @property
    def user(self) -> np.ndarray:
        """Always a UserError."""
        raise UserError(
            f"this needs all {len(self)} training interactions at once, and data.budget = "
            f"{self.budget} leaves them on disk; only pairwise methods without a graph, such as "
            "baseline.mf, are trained so: take one of them, or data.budget=0"
        )

    item = user  # pyright: ignore[reportAssignmentType]
    time = rating = None

    @property
    def room(self) -> int:
        """Interactions that any part of any epoch has at most."""
        most = -(-len(self._rows) // self.parts)
        return int(np.sort(self._rows)[::-1][:most].sum())

    def epoch(self, seed: Sequence[int]) -> Iterator[Interactions]:
        """The parts of an epoch, in an order that ``seed`` decides; every record is in one.

        Of several hosts each reads its share of the records of a part, and tells the others.
        """
        order = np.random.default_rng(seed).permutation(len(self._rows))
        return map(self._shared, np.array_split(order, self.parts))

    def _shared(self, numbers: np.ndarray) -> Interactions:
        shares = np.array_split(numbers, hosts.count())
        rows = [int(self._rows[share].sum()) for share in shares]
        mine = self.records(shares[hosts.number()])
        padded = np.zeros((2, max(rows)), np.int32)
        padded[:, : len(mine)] = mine.user, mine.item
        told = zip(hosts.each(padded), rows, strict=True)
        return Interactions(*np.concatenate([part[:, :size] for part, size in told], axis=1))

    def records(self, numbers: np.ndarray) -> Interactions:
        """The interactions of some records."""
        read = self._read(numbers.tolist())
        join = lambda key: np.concatenate([np.zeros(0, np.int32), *(r[key] for r in read)])
        return Interactions(join("user"), join("item"))

    def of(self, asked: np.ndarray) -> Interactions:
        """Those of the users that are marked in ``asked`` [U].

        Raises:
          UserError: if they exceed the budget.
        """
        wanted = int(self.user_counts(len(asked))[asked].sum())
        if wanted > self.budget:
            raise UserError(
                f"{int(asked.sum())} users are asked about, with {wanted} training interactions, "
                f"and data.budget is {self.budget}; ask fewer, as by a smaller eval.users"
            )
        kept = [part.of(asked) for part in self._all()]
        join = lambda name: np.concatenate([getattr(part, name) for part in kept])
        return Interactions(join("user"), join("item"))

    def user_counts(self, num_users: int) -> np.ndarray:
        """Interactions of each user, int [U]."""
        assert num_users == self._sizes[0]
        return self._counted()[0]

    def item_counts(self, num_items: int) -> np.ndarray:
        """Interactions with each item, int [I]."""
        assert num_items == self._sizes[1]
        return self._counted()[1]

    def _all(self) -> Iterator[Interactions]:
        starts = range(0, len(self._rows), _PASS)
        return (self.records(np.arange(s, min(s + _PASS, len(self._rows)))) for s in starts)

    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        """Both counts, of one pass over the disk, which are kept."""
        if self._counts is not None:
            return self._counts
        user, item = (np.zeros(size, np.int64) for size in self._sizes)
        for part in self._all():
            user += part.user_counts(len(user))
            item += part.item_counts(len(item))
        self.__dict__["_counts"] = user, item
        return user, item


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a task makes of streamed interactions: training arrays for one part after another.

    Attributes:
      train: the interactions.
      make: arrays from the interactions of a part and the room of any; all parts have one shape.
    """

    train: Streamed
    make: Callable[[Interactions, int], PyTree]

    def epoch(
        self, program: Callable, state: TrainState, steps: int
    ) -> tuple[TrainState, dict[str, Array]]:
        """One epoch: a call of ``program`` (state, arrays) for each part; logs are their means.

        A part is trained on while the next is read; a third is never held.
        """
        key, number = state.key, state.epoch + 0  # the state's own are given away
        seed = [*np.asarray(jax.random.key_data(key)).tolist(), int(number)]
        logs, sizes = [], []
        for place, part in enumerate(self.train.epoch(seed)):
            arrays = self.make(part, self.train.room)
            if logs:
                jax.block_until_ready(logs[-1])
            mine = jax.random.fold_in(key, place)
            state, told = program(state.replace(key=mine, epoch=number + 0), arrays)
            logs.append(told)
            sizes.append(len(part))
        told = {name: np.array([float(log[name]) for log in logs]) for name in logs[0]}
        bad = told.pop("bad_step")
        means = {name: np.average(values, weights=sizes) for name, values in told.items()}
        first = int(np.argmax(bad >= 0))
        means["bad_step"] = first * steps + bad[first] if bad[first] >= 0 else -1
        return state.replace(key=key), means


def example(arrays: Any) -> PyTree:
    """Training arrays, or for :class:`Parts` of them such as any part has, all padding."""
    if not isinstance(arrays, Parts):
        return arrays
    none = np.zeros(0, np.int32)
    return arrays.make(Interactions(none, none), arrays.train.room)


def check(data: Dataset, budget: int) -> None:
    """Raises a UserError if a budget is exceeded by data that cannot be streamed."""
    if budget and len(data.train) > budget and not isinstance(data.train, Streamed):
        raise UserError(
            f"{data.name}: {len(data.train)} training interactions exceed data.budget = {budget}, "
            "and only prepared data are streamed: run --mode=prepare with this budget, then name "
            "the folder it prints as data.source"
        )
