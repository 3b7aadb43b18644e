"""Evaluation: blocks of queries to per-query metrics, in one compiled program."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from mmrec_jax import hosts, memory, mesh, store
from mmrec_jax import run as runs
from mmrec_jax.data import knockout as knockouts
from mmrec_jax.types import Array, Context, PyTree, Query, Recommender, UserError


def per_query(
    run, variables: PyTree, hyper: dict, ctx: Context, queries: Any, names, ks
) -> dict[str, Array]:
    """Metrics of every query, float32 [Q] by name; pure, to be compiled once.

    Args:
      run: the fixed part of the run (``run.Run``).
      variables: linen variables.
      hyper: hyper-parameters that may be traced.
      ctx: the method's context.
      queries: the task's queries, with a leading block axis.
      names, ks: metrics and cuts, static.
    """
    model = run.model(hyper, ctx)
    rep = mesh.over_items(model.apply(variables, ctx, method="represent"), run)

    def block(_, query):
        query = mesh.over_data(query, query.user.size)
        return None, run.task.measure(model, variables, rep, query, names, ks)

    measured = lax.scan(block, None, queries)[1]
    return jax.tree.map(lambda m: m.reshape(-1), measured)


def lists(run, variables: PyTree, hyper: dict, ctx: Context, queries: Query, k: int) -> Array:
    """The k best items of every ranking query, int32 [Q, k]; pure, the arguments as above."""
    model = run.model(hyper, ctx)
    rep = mesh.over_items(model.apply(variables, ctx, method="represent"), run)

    def block(_, query):
        query = mesh.over_data(query, query.user.size)
        return None, model.apply(variables, rep, query, k, method="rank")[0]

    return lax.scan(block, None, queries)[1].reshape(-1, k)


class Evaluator:
    """Queries of one split on the device, and the program that answers them.

    Attributes:
      users: int [Q], the user of each real query, ascending.
      ranks: whether the queries ask for items and the method ranks some.
    """

    def __init__(self, run, data, split: str, config):
        self._run = run
        queries = run.task.queries(data, split, config)
        asked = np.flatnonzero(queries.valid.reshape(-1))
        user = queries.user.reshape(-1)[asked]
        order = np.argsort(user, kind="stable")
        self.users, self._places = user[order], asked[order]
        self._queries = mesh.feed(queries, queries.user.shape[1])
        self.ranks = isinstance(queries, Query) and run.method.score is not Recommender.score
        self._lists = jax.jit(functools.partial(lists, run), static_argnums=4)
        names, ks = tuple(config.eval.metrics), tuple(config.eval.ks)
        self._program = self._traceable = jax.jit(
            lambda variables, hyper, ctx, queries: per_query(
                run, variables, hyper, ctx, queries, names, ks
            )
        )

    def __call__(self, variables: PyTree, hyper: dict, ctx: Context) -> dict[str, np.ndarray]:
        """Metrics of every user in ``users``, float32 [Q] by name."""
        measured = self._program(variables, hyper, ctx, self._queries)
        measured = hosts.whole(measured)
        return {name: value[..., self._places] for name, value in measured.items()}

    def top(self, variables: PyTree, hyper: dict, ctx: Context, k: int) -> np.ndarray:
        """The k best items of every user in ``users``, best first, int32 [Q, k].

        Masked as for the metrics; places that no item is left for hold -1. Only where ``ranks``.
        """
        items = self._lists(variables, hyper, ctx, self._queries, k)
        return hosts.whole(items)[self._places]

    def trace(self, variables: PyTree, hyper: dict, ctx: Context) -> Any:
        """The program, a ``jax.stages.Traced``, for arguments like these or of these shapes."""
        return self._traceable.trace(variables, hyper, ctx, self._queries)

    def compile(self, variables: PyTree, hyper: dict, ctx: Context) -> Any:
        """Compiles the program, once; from then on it takes only arguments like these.

        Raises:
          UserError: if it cannot fit into memory.
        """
        if self._program is self._traceable:
            self._program = self.trace(variables, hyper, ctx).lower().compile()
            memory.release()
            name = f"an evaluation of {self._run.config.model.name}"
            memory.check(self._program, name, "eval.block")
        return self._program

    def over(self, batched: Callable) -> Evaluator:
        """The same queries to several members of a sweep at once.

        ``batched`` maps a function of four arguments over the first two; metrics are then [n, Q].
        """
        other = copy.copy(self)
        other._program = other._traceable = jax.jit(batched(self._traceable))
        return other

    def mean(self, variables: PyTree, hyper: dict, ctx: Context) -> dict[str, float]:
        """What the task makes of the metrics of all users."""
        return self._run.task.summarise(self(variables, hyper, ctx), self.users)


@mesh.as_trained
def evaluate(workdir: str | Path, split: str = "test", knockout: str = "") -> dict[str, float]:
    """Metrics of the best parameters of ``workdir`` on ``split``, as the run itself measured.

    An evaluation on test adds to ``test_evaluations`` in ``summary.json``. ``knockout`` is taken
    from the features that the parameters meet now, see :mod:`mmrec_jax.data.knockout`.

    Raises:
      UserError: no run, an empty split, test before the run has ended, or no such knock-out.
    """
    without = functools.partial(knockouts.knock_out, spec=knockout) if knockout else None
    run, data, ctx, variables = runs.load(workdir, without)
    if split == "test" and not store.read_summary(workdir):
        raise UserError(
            f"{workdir} has not ended, and test is for what has: train to the end, or --split=valid"
        )
    if not len(getattr(data, split)):
        raise UserError(f"{data.name} has no interactions in its {split} split")
    means = Evaluator(run, data, split, run.config).mean(variables, {}, ctx)
    if split == "test":
        count_tests(workdir)
    return means


def count_tests(workdir: str | Path, times: int = 1) -> None:
    """Notes in the summary of a finished run that it was measured on test so many times more."""
    with store.alone(workdir, wait=60):
        more = {"test_evaluations": tested(workdir) + times}
        store.write_json(Path(workdir) / "summary.json", store.read_summary(workdir) | more)


def tested(workdir: str | Path) -> int:
    """How often the run in ``workdir`` has been measured on test, as its summary says."""
    summary = store.read_summary(workdir)
    return summary.get("test_evaluations", int("test" in summary))
