"""Unlearning: a trained run forgets users, items or interactions without being trained anew.

MMRecUn: Sinha, Mandal and Kankanhalli, "Multi-Modal Recommendation Unlearning for Legal,
Licensing, and Modality Constraints", AAAI 2025, https://arxiv.org/abs/2405.15328. From the best
parameters, minimise ``alpha * reverse + (1 - alpha) * retained``, where ``retained`` is the
method's own loss on the interactions that stay and ``reverse`` is BPR with the pair turned round
on those to be forgotten: an item the user does not have shall stand above the forgotten one.

The authors' code is not public; reconstructed from the abstract and the first pages. Ours are:

- ``reverse`` compares what ``score`` returns, the numbers that rank at test, instead of calling
  the method's loss with positive and negative exchanged. So it means the same for every method,
  also for one without negatives (BM3), and leaves alone the auxiliary losses, which know of no
  preference.
- Graphs are built anew from what stays, so that forgotten edges carry no message.
- A forgotten pair is drawn uniformly with replacement, and its other item uniformly from those
  that the user had neither in what stays nor in what goes.
- The penalty of the parameters is that of the method's own loss.
- Unlearning stops once the forgotten interactions rank no higher than ones that were never seen
  (:func:`unseen`): pressed further they would stand out by their low ranks. ``alpha``, learning
  rate and the limit of epochs have defaults of our own (configs/base.py).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import struct
from ml_collections import ConfigDict

from mmrec_jax import evaluate, logs, losses, page, report, store, train
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import Checkpoints, variables_of
from mmrec_jax.data import forget
from mmrec_jax.ops import sampling
from mmrec_jax.run import Run
from mmrec_jax.types import (
    Array,
    Context,
    Dataset,
    Interactions,
    PyTree,
    Query,
    Recommender,
    UserError,
)

PAIRS = 256  # forgotten pairs in a step; each costs a score for every item
PATIENCE = 15  # epochs in a row that bring forgotten recall no nearer to its goal


@struct.dataclass
class Arrays:
    """What an epoch reads.

    Attributes:
      retained: the task's arrays of what stays.
      forgotten: int32 [E', 2], users and items to forget.
      seen: all training interactions, forgotten or not, for sampling.
    """

    retained: PyTree
    forgotten: Array
    seen: sampling.Positives


@struct.dataclass
class Batch:
    """A batch of what stays, and B forgotten triples.

    Attributes:
      retained: the task's batch.
      user, item, other: int32 [B]; the item shall fall below the other one.
    """

    retained: PyTree
    user: Array
    item: Array
    other: Array


def objective(
    model: Recommender, batch: Batch, ctx: Context, alpha: float | Array
) -> tuple[Array, dict[str, Array]]:
    """The loss of unlearning, and its two parts."""
    retained, _ = model.loss(batch.retained, ctx)
    scores = model.score(model.represent(ctx), _query(batch.user))  # [B, I]
    pick = lambda item: jnp.take_along_axis(scores, item[:, None], axis=1)[:, 0]
    reverse = losses.bpr(pick(batch.other), pick(batch.item), jnp.ones(batch.user.shape))
    return alpha * reverse + (1 - alpha) * retained, {"retained": retained, "reverse": reverse}


def _query(user: Array) -> Query:
    """Queries of users [B] about whom nothing else is known, which pairwise methods do not ask."""
    pairs, rows = jnp.zeros((0,), jnp.int32), jnp.zeros((*user.shape, 0), jnp.int32)
    valid = jnp.ones(user.shape, bool)
    return Query(user, valid, rows, pairs, pairs, pairs, pairs, rows)


def prepare(task, data: Dataset, kept: Dataset, forgotten, config: ConfigDict) -> Arrays:
    """Arrays of what stays in ``kept`` and of what goes, ``forgotten``."""
    pairs = np.stack([forgotten.user, forgotten.item], axis=1)
    seen = sampling.Positives.of(data.train, data.spec.num_users, data.spec.num_items)
    return Arrays(task.prepare(kept, config), jnp.asarray(pairs, jnp.int32), seen)


def _task(task) -> types.SimpleNamespace:
    """What an epoch asks of a task, over both kinds of interactions."""

    def batch(key: Array, arrays: Arrays, index: Array, weight: Array) -> Batch:
        retained_key, place_key, other_key = jax.random.split(key, 3)
        count = arrays.forgotten.shape[0]
        place = jax.random.randint(place_key, (min(count, PAIRS),), 0, count)
        user, item = arrays.forgotten[place].T
        other = sampling.negatives(other_key, user, arrays.seen)
        return Batch(task.batch(retained_key, arrays.retained, index, weight), user, item, other)

    return types.SimpleNamespace(batch=batch, size=lambda arrays: task.size(arrays.retained))


def unlearn(
    workdir: str | Path,
    requests: str | Path,
    output: str | Path | None = None,
    settings: ConfigDict | None = None,
) -> dict[str, Any]:
    """Has the run in ``workdir`` forget, and compares it with itself before and with a new one.

    Retained recall is that of the test interactions that stay, over items that the user has not
    had; forgotten recall that of the forgotten training interactions, over all but the ones
    that stay. ``output`` becomes a run like any other, whose data lack what was forgotten.

    Args:
      workdir: of a finished run of a pairwise method; it is left as it is.
      requests: a table, see :func:`mmrec_jax.data.forget.marked`.
      output: of the new run, default ``WORKDIR-unlearned``.
      settings: the section ``unlearn`` of the configuration, default that of the run.

    Returns:
      What ``output/unlearn.json`` holds: metrics and seconds by model and kind.

    Raises:
      UserError: requests or a run that this cannot be done with, or ``output`` holds a run.
    """
    output = Path(output or f"{str(workdir).rstrip('/')}-unlearned")
    if (output / "config.json").exists():
        raise UserError(f"{output} holds a run already; name another --output")
    run, data, ctx, variables = runs.load(workdir)
    _check(run)
    config = _configured(run.config, settings, output)
    forgotten = data.train.take(forget.marked(data, requests)["train"])
    if not len(forgotten):
        raise UserError(f"{requests}: names no training interaction, so nothing was learned of it")
    kept = forget.without(data, requests)
    kept_run, _, kept_ctx = runs.setup(config, kept)
    asked = _evaluators(kept_run, data, kept, forgotten)
    measured = lambda place, *model: {
        **{kind: measure.mean(model[0], {}, model[1]) for kind, measure in asked.items()},
        "seconds": _seconds(Path(place)),
    }
    metric = config.eval.metric
    models = {"before": measured(workdir, variables, ctx)}
    held_out = models["before"].get("valid", {}).get(metric, 0.0)
    arrays = prepare(run.task, data, kept, forgotten, config)
    fresh = jax.jit(functools.partial(runs.init_state, kept_run))(
        jax.random.key(config.seed), {}, kept_ctx, arrays.retained
    )
    untrained = asked["forgotten"].mean(variables_of(fresh), {}, kept_ctx)[metric]
    goal = Goal(asked["forgotten"], metric, unseen(kept, forgotten, held_out, untrained))
    _begin(output, config, forget.merge(run.config.data.get("forget", ""), requests))
    variables, facts = _fit(kept_run, kept_ctx, arrays, variables, goal, output)
    facts["unlearned_from"] = str(workdir)
    evaluators = {
        split: evaluate.Evaluator(kept_run, kept, split, config)
        for split in ("valid", "test")
        if len(getattr(kept, split))
    }
    train.summarise(kept_run, kept, kept_ctx, variables, facts, evaluators, output)
    models["unlearned"] = measured(output, variables, kept_ctx)
    if config.unlearn.retrain:
        train.train(config, output / "retrained")
        _, _, ctx, variables = runs.load(output / "retrained")
        models["retrained"] = measured(output / "retrained", variables, ctx)
    result = {
        "forgotten": kept.notes["forgotten"],
        "settings": config.unlearn.to_dict(),
        "metric": metric,
        "unseen": goal.unseen,
        "epochs": facts["best_epoch"],
        "models": models,
    }
    store.write_json(output / "unlearn.json", result)
    page.attach(page.run, output)
    return result


def _check(run: Run) -> None:
    """Raises UserError for a run that cannot unlearn by steps."""
    name = run.method.__name__
    if not run.config.train.epochs:
        raise UserError(f"{name} is no result of steps; train it anew with --config.data.forget")
    if run.method.task != "pairwise":
        raise UserError(
            f"{name} is of the task {run.method.task}, and only pairwise methods can unlearn; "
            "train it anew with --config.data.forget"
        )


def _configured(config: ConfigDict, settings: ConfigDict | None, output: Path) -> ConfigDict:
    """The configuration of the new run."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.data.forget = str((output / "forget.csv").resolve())
        if settings is not None:
            config.unlearn = copy.deepcopy(settings)
    return config


def _begin(output: Path, config: ConfigDict, requests: pd.DataFrame) -> None:
    """Makes the directory of the new run, with all that has been asked of it to forget."""
    output.mkdir(parents=True, exist_ok=True)
    with store.replacing(config.data.forget) as part:
        requests.to_csv(part, index=False)
    store.write_json(output / "config.json", json.loads(config.to_json()))


def unseen(kept: Dataset, forgotten: Interactions, held_out: float, untrained: float) -> float:
    """The recall that interactions like ``forgotten`` would have, had they never been seen.

    It is that of held-out interactions as far as user and item are still known, that of an
    untrained model where only the item is, and 0 where the item is not.

    Args:
      kept: what stays.
      forgotten: what goes.
      held_out: recall in validation.
      untrained: recall of ``forgotten`` by fresh parameters.
    """
    item = np.isin(forgotten.item, kept.train.item)
    user = np.isin(forgotten.user, kept.train.user)
    return float(np.mean(item * np.where(user, held_out, untrained)))


def _fit(
    run: Run, ctx: Context, arrays: Arrays, variables: PyTree, validate: Any, output: Path
) -> tuple[PyTree, dict[str, Any]]:
    """Unlearns from ``variables`` on by ``train.fit``, until ``validate`` finds no more to do."""
    config = copy.deepcopy(run.config)
    config.train.epochs = config.unlearn.epochs
    config.optim.lr = config.unlearn.lr
    config.optim.schedule, config.optim.warmup_steps = "constant", 0
    config.eval.metric, config.eval.every, config.eval.patience = "goal", 1, PATIENCE
    goal = functools.partial(objective, alpha=config.unlearn.alpha)
    run = dataclasses.replace(run, task=_task(run.task), config=config, objective=goal)
    run = runs.count_steps(run, arrays)
    programs = train.Programs(run)
    hyper = {"optim.lr": jnp.float32(config.optim.lr)}
    state = programs.init(jax.random.key(config.seed), hyper, ctx, arrays)
    collections = dict(variables)
    state = state.replace(params=collections.pop("params"), collections=collections)
    checkpoints = Checkpoints(output)
    try:
        start = dataclasses.asdict(train.Progress(best_epoch=0))
        checkpoints.save(state, variables, start)  # to go on from
        return train.fit(run, programs, ctx, arrays, validate, checkpoints, output)
    finally:
        checkpoints.close()


class Goal:
    """Stands in for validation: how far forgotten recall is above that of the never seen.

    Attributes:
      measure: the forgotten interactions as queries.
      metric: what recall is.
      unseen: see :func:`unseen`.
    """

    def __init__(self, measure: evaluate.Evaluator, metric: str, unseen: float):
        self.measure, self.metric, self.unseen = measure, metric, unseen

    def mean(self, variables: PyTree, hyper: dict, ctx: Context) -> dict[str, float]:
        """Forgotten recall, and the goal, which is 0 once that is low enough and else negative."""
        recall = self.measure.mean(variables, hyper, ctx)[self.metric]
        return {"forgotten": recall, "goal": min(self.unseen - recall, 0.0)}


def _evaluators(run: Run, data: Dataset, kept: Dataset, forgotten: Interactions) -> dict:
    """Queries by kind: forgotten, and where there are any retained and valid."""
    same = dataclasses.replace(data, valid=kept.valid, test=kept.test)
    make = functools.partial(evaluate.Evaluator, run, config=run.config)
    found = {"forgotten": make(dataclasses.replace(kept, test=forgotten), "test")}
    splits = {"retained": "test", "valid": "valid"}
    asked = {kind: split for kind, split in splits.items() if len(getattr(same, split))}
    return found | {kind: make(same, split) for kind, split in asked.items()}


def _seconds(workdir: Path) -> float:
    """What a run took to compile, train and validate."""
    logged = logs.read(workdir)
    compiled = store.read_summary(workdir).get("compile_seconds", 0.0)
    names = ("seconds", "evaluation_seconds")
    return compiled + sum(record.get(name, 0.0) for record in logged for name in names)


def table(result: dict[str, Any]) -> str:
    """What ``unlearn`` returns as plain text, a row per model."""
    metric = result["metric"]
    head = f"{'':<10}{'retained ' + metric:>24}{'forgotten ' + metric:>24}{'seconds':>10}"
    value = lambda model, kind: report.number(model.get(kind, {}).get(metric))
    rows = (
        f"{name:<10}{value(model, 'retained'):>24}{value(model, 'forgotten'):>24}"
        f"{model['seconds']:>10.1f}"
        for name, model in result["models"].items()
    )
    return "\n".join([head, *rows])
