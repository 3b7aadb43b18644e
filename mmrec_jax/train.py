"""Training: one compiled call per epoch, validated, checkpointed and resumable.

Order and noise are functions of ``(key, epoch, step)``; a run that was killed goes on from its
newest checkpoint and ends as if it had never stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from mmrec_jax import (
    beyond,
    hosts,
    limits,
    logs,
    memory,
    mesh,
    optimize,
    page,
    report,
    signals,
    slices,
    store,
    streamed,
)
from mmrec_jax import evaluate as evaluation
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import Checkpoints, variables_of
from mmrec_jax.data import passport
from mmrec_jax.ops import sampling
from mmrec_jax.run import Run
from mmrec_jax.types import (
    Array,
    Context,
    Dataset,
    PyTree,
    Recommender,
    TrainState,
    UserError,
)


class Diverged(UserError):
    """The loss stopped being a number."""


def train_epoch(
    run: Run, state: TrainState, hyper: dict, ctx: Context, arrays: PyTree
) -> tuple[TrainState, dict[str, Array]]:
    """One epoch: refresh, shuffle, and a scan over all steps; pure.

    Returns:
      The new state, and the mean of the loss and of each of its parts over the epoch's examples,
      with ``bad_step``: the first step whose loss was not finite, or -1.
    """
    optimizer = run.optimizer(hyper)
    keys = jax.random.split(jax.random.fold_in(state.key, state.epoch), 3)
    order_key, refresh_key, steps_key = keys
    refresh = functools.partial(run.model(hyper, ctx).apply, method="refresh")
    fresh = refresh(variables_of(state), ctx, rngs={"dropout": refresh_key})
    ctx = _compute_dtype(fresh, run.config.train.precision)
    model = run.model(hyper, ctx)  # anew: its tables may read what has just changed

    def step(carry, inputs):
        params, collections, opt_state = carry
        index, weight, number = inputs
        batch_key, dropout_key = jax.random.split(jax.random.fold_in(steps_key, number))
        index, weight = mesh.over_data((index, weight), index.size)
        batch = run.task.batch(batch_key, arrays, index, weight)
        batch = mesh.over_data(batch, index.size)

        def objective(params):
            variables = {
                "params": _compute_dtype(params, run.config.train.precision),
                **collections,
            }
            (loss, parts), changed = model.apply(
                variables,
                batch,
                ctx,
                method=run.objective,
                rngs={"dropout": dropout_key},
                mutable=list(collections),
            )
            return loss, (parts, changed)

        (loss, (parts, changed)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        carry = mesh.keep((params, changed, opt_state), run)
        return carry, ({"loss": loss, **parts}, weight.sum())

    carry = (state.params, state.collections, state.opt_state)
    inputs = (*_order(run, order_key, run.task.size(arrays)), jnp.arange(run.steps))
    (params, collections, opt_state), (parts, counts) = lax.scan(step, carry, inputs)
    finite = jnp.isfinite(parts["loss"])
    means = {name: (value * counts).sum() / counts.sum() for name, value in parts.items()}
    means["bad_step"] = jnp.where(finite.all(), -1, jnp.argmin(finite))
    new = TrainState(params, collections, opt_state, state.key, state.epoch + 1)
    return mesh.keep(new, run), means


def _order(run: Run, key: Array, size: int) -> tuple[Array, Array]:
    """Shuffled example numbers and their weights, [steps, B] each; the last batch is filled up."""
    batch = run.config.train.batch_size
    fill = run.steps * batch - size
    index = jnp.pad(sampling.permutation(key, size), (0, fill))
    weight = jnp.pad(jnp.ones(size, jnp.float32), (0, fill))
    return index.reshape(run.steps, batch), weight.reshape(run.steps, batch)


def _compute_dtype(tree: PyTree, precision: str) -> PyTree:
    """Float32 leaves in the precision that the loss computes in."""
    dtype = jnp.dtype(precision)
    cast = lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x
    return tree if dtype == jnp.float32 else jax.tree.map(cast, tree)


@mesh.as_configured
def train(config: ConfigDict, workdir: str | Path, profile: bool = False) -> dict[str, Any]:
    """Trains, keeps the best by validation, tests it once, and writes the results to ``workdir``.

    If ``workdir`` holds an unfinished run of the same configuration, that run goes on. With
    ``profile``, a trace of one epoch is left in ``workdir/profile``.

    Returns:
      The summary, as in ``summary.json``.

    Raises:
      UserError: if ``workdir`` belongs to another configuration, or the input is faulty.
      Diverged: if the loss stops being finite.
    """
    workdir = Path(workdir)
    limits.check(config)
    _check_free(workdir, config)
    vault = runs.Vault()
    run, data, ctx = runs.setup(config, vault.load(config))
    check(run)
    evaluators = {}
    if len(data.valid):
        evaluators["valid"] = evaluation.Evaluator(run, data, "valid", config)
    if config.train.epochs:
        arrays = run.task.prepare(data, config)
        run = runs.count_steps(run, arrays)
        programs = Programs(run)
        if not (workdir / "config.json").exists():
            programs.prove(ctx, arrays, evaluators.get("valid"))
    warn(data)
    with store.alone(workdir), contextlib.closing(Checkpoints(workdir)) as checkpoints:
        _check_free(workdir, config)  # again: it may have been someone else's until now
        store.write_json(workdir / "config.json", json.loads(config.to_json()))
        if config.train.epochs:
            valid = evaluators.get("valid")
            variables, facts = fit(
                run, programs, ctx, arrays, valid, checkpoints, workdir, profile=profile
            )
        else:
            variables, facts = {}, {"epochs": 0, "best_epoch": None}
        data = vault.reveal(config)  # all is chosen
        if len(data.test):
            evaluators["test"] = evaluation.Evaluator(run, data, "test", config)
        summary = summarise(run, data, ctx, variables, facts, evaluators, workdir)
        if hosts.first():
            page.attach(page.run, workdir)
    return summary


def check(run: Run) -> None:
    """Finds mistakes in the configuration of a run before anything is written.

    Raises:
      UserError: epochs of a method that learns nothing, or an unknown name.
    """
    config = run.config
    if config.train.epochs and run.method.loss is Recommender.loss:
        raise UserError(f"{run.method.__name__} learns nothing by steps; set train.epochs to 0")
    optimize.build(config.optim, 0.0, 0.0, 1, 1)
    if config.eval.metric not in (known := run.task.labels(config)):
        raise UserError(f"eval.metric is {config.eval.metric!r}; measured are {', '.join(known)}")


def warn(data: Dataset) -> None:
    """Prints what the passport of the split warns of."""
    for line in passport.of(data)["warnings"] if hosts.first() else ():
        print(f"warning: {line}", file=sys.stderr)


def _check_free(workdir: Path, config: ConfigDict) -> None:
    """Raises UserError if ``workdir`` holds a run of another configuration, or cannot be made."""
    there = next(p for p in (workdir, *workdir.parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file; name another --workdir")
    path, mine = workdir / "config.json", json.loads(config.to_json())
    theirs = store.read_config(workdir) if path.exists() else mine
    mine, theirs = (
        {key: value for key, value in tree.items() if key not in ("mesh", "sweep")}
        for tree in (mine, theirs)
    )
    if theirs != mine:
        changed = sorted(name for name, _ in _flat(mine).items() ^ _flat(theirs).items())
        names = ", ".join(dict.fromkeys(changed))
        raise UserError(
            f"{workdir} holds a run with other values of {names}; name another --workdir"
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {prefix + key: str(value)}
        )
    return flat


@dataclasses.dataclass
class Progress:
    """Early stopping: what is carried from one epoch to the next.

    Attributes:
      best: the best validation value so far; None before the first.
      best_epoch: where it was reached, or the latest epoch if nothing validates.
      stale: validations since then.
    """

    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0

    def update(self, value: float | None, epoch: int, choosing: bool) -> bool:
        """Takes the validation value of an epoch, if it has one; True if this epoch is the best.

        Without anything to choose by, the latest is.
        """
        if not choosing:
            self.best_epoch = epoch
            return True
        if value is None:
            return False
        if self.best is None or value > self.best:
            self.best, self.best_epoch, self.stale = value, epoch, 0
            return True
        self.stale += 1
        return False

    def stopped(self, config: ConfigDict) -> bool:
        """Whether patience has run out."""
        return bool(config.eval.patience) and self.stale > config.eval.patience

    def patience_left(self, config: ConfigDict) -> int:
        """Epochs until the run stops if the metric does not improve any more."""
        if self.best is None or not config.eval.patience:
            return config.train.epochs
        return (config.eval.patience + 1 - self.stale) * config.eval.every


class Programs:
    """The compiled programs of a run, made when first needed; members of a sweep share them.

    Attributes:
      init: ``run.init_state``, compiled.
      compile_seconds: what compiling the epoch took; 0 if that was not needed.
      memory_bytes: what the epoch needs, as the compiler says.
    """

    def __init__(self, run: Run):
        self.init = jax.jit(functools.partial(runs.init_state, run))
        self.compile_seconds, self.memory_bytes = 0.0, 0
        self._run, self._epoch = run, None

    def prove(
        self,
        ctx: Context,
        arrays: PyTree,
        validate: evaluation.Evaluator | None,
        hyper: dict[str, Array] | None = None,
    ) -> None:
        """Compiles all that :func:`fit` needs with these arguments, before anything is written.

        Raises:
          UserError: if it cannot fit into memory, or the method's sizes do not fit each other.
        """
        hyper = hyper or {}
        steered = hyper or {"optim.lr": jnp.float32(self._run.config.optim.lr)}
        inputs = (jax.random.key(0), steered, ctx, streamed.example(arrays))
        like = mesh.shapes(jax.eval_shape(self.init, *inputs), self._run)
        self.epoch(like, steered, ctx, arrays)
        if validate:
            validate.compile(variables_of(like), hyper, ctx)

    def epoch(self, state: TrainState, hyper: dict, ctx: Context, arrays: PyTree) -> Callable:
        """``train_epoch`` for arguments like these, of which shapes are enough.

        Raises:
          UserError: if it cannot fit into memory.
        """
        if self._epoch is None:
            like = streamed.example(arrays)
            self._epoch, self.compile_seconds = _compile(self._run, state, hyper, ctx, like)
            name = f"an epoch of {self._run.config.model.name}"
            memory.check(self._epoch, name, "train.batch_size or model.dim")
            self.memory_bytes = memory.needed(self._epoch)
        return self._epoch


def fit(
    run: Run,
    programs: Programs,
    ctx: Context,
    arrays: PyTree,
    validate: evaluation.Evaluator | None,
    checkpoints: Checkpoints,
    workdir: Path,
    hyper: dict[str, Array] | None = None,
    until: int | None = None,
    bar: Any = None,
    profile: bool = False,
) -> tuple[PyTree, dict[str, Any]]:
    """Trains to the end, or to epoch ``until``; the best variables and facts for the summary.

    Args:
      run: whose configuration steers the loop.
      programs: of the same shapes, perhaps of another member of a sweep.
      ctx, arrays: what the method and its task read.
      validate: the validation queries, if there are any.
      checkpoints: to go on from and to write to.
      workdir: where the log is.
      hyper: values of what the programs take as traced numbers, besides the learning rate.
      until: where to pause.
      bar: shows the progress, and is closed; its own line if None.
      profile: trace the second epoch and its validation, into the folder ``profile``.
    """
    config, epochs = run.config, run.config.train.epochs
    last = epochs if until is None else min(until, epochs)
    hyper = hyper or {}
    steered = {"optim.lr": jnp.float32(config.optim.lr), **hyper}

    def compile_all(like):
        programs.epoch(like, steered, ctx, arrays)
        if validate:
            validate.compile(variables_of(like), hyper, ctx)

    state, best, progress = _start(run, programs, steered, ctx, arrays, checkpoints, compile_all)
    first = done = int(state.epoch)
    stack = contextlib.ExitStack()
    with stack:
        log = stack.enter_context(contextlib.closing(logs.Log(workdir)))
        bar = stack.enter_context(contextlib.closing(bar or report.Progress(epochs, done)))
        log.rewind(done)
        stack.enter_context(signals.waiting())
        while done < last and not progress.stopped(config):
            program = programs.epoch(state, steered, ctx, arrays)
            done += 1
            record: dict[str, Any] = {"epoch": done}
            means = {}
            with _tracing(workdir, profile and done == first + 2):
                with _clock(record, "seconds"):
                    state, training = _epoch(run, program, state, steered, ctx, arrays)
                    training = {name: float(value) for name, value in training.items()}
                check_finite(training.pop("bad_step"), run.steps * run.calls, done, workdir)
                if validate and (done % config.eval.every == 0 or done == epochs):
                    with _clock(record, "evaluation_seconds"):
                        means = validate.mean(variables_of(state), hyper, ctx)
            if progress.update(means.get(config.eval.metric), done, choosing=validate is not None):
                # The next epoch reuses the memory of the state.
                best = jax.tree.map(jnp.copy, variables_of(state))
            log.write({**record, **training, **{f"valid/{name}": m for name, m in means.items()}})
            stop = signals.asked()
            due = done == last or progress.stopped(config) or done % config.checkpoint.every == 0
            if (due or stop) and best is not None:
                log.sync()  # a state must not outlive the log that leads to it
                checkpoints.save(state, best, dataclasses.asdict(progress))
            metric = config.eval.metric
            end = done + progress.patience_left(config)
            bar.update(done, training["loss"], metric, means.get(metric), end)
            if stop:
                raise signals.Stopped(f" after epoch {done}")
    return best, {
        "epochs": done,
        "best_epoch": progress.best_epoch,
        "seconds_per_epoch": median(workdir, "seconds"),
        "seconds_per_evaluation": median(workdir, "evaluation_seconds"),
        "compile_seconds": programs.compile_seconds,
        "forecast_memory_bytes": programs.memory_bytes,
    }


def _start(
    run, programs, hyper, ctx, arrays, checkpoints, compile_all: Callable
) -> tuple[TrainState, PyTree, Progress]:
    """The newest checkpoint of the run, or else a fresh state."""
    inputs = (jax.random.key(run.config.seed), hyper, ctx, streamed.example(arrays))
    like = mesh.shapes(jax.eval_shape(programs.init, *inputs), run)
    found = checkpoints.restore(like)
    if found is None:
        compile_all(like)  # tells what cannot fit, before memory is taken
        return programs.init(*inputs), None, Progress()
    state, best, progress = found
    if hosts.first():
        print(f"going on from epoch {int(state.epoch)}", file=sys.stderr)
    return state, best, Progress(**progress)


def _epoch(run: Run, program: Callable, state, hyper, ctx, arrays) -> tuple[TrainState, dict]:
    """``train_epoch`` in one call, or one for each part of interactions that are streamed."""
    if not isinstance(arrays, streamed.Parts):
        return program(state, hyper, ctx, arrays)
    part = lambda state, arrays: program(state, hyper, ctx, arrays)
    return arrays.epoch(part, state, run.steps)


def _tracing(workdir: Path, wanted: bool) -> contextlib.AbstractContextManager:
    """Traces its body for TensorBoard and Perfetto, if ``wanted``."""
    if not wanted:
        return contextlib.nullcontext()
    return jax.profiler.trace(workdir / "profile", create_perfetto_trace=True)


@contextlib.contextmanager
def _clock(record: dict[str, Any], name: str) -> Iterator[None]:
    """Notes how many seconds its body takes; the body must wait for the device."""
    began = time.perf_counter()
    yield
    record[name] = time.perf_counter() - began


def median(workdir: Path, name: str) -> float | None:
    """Median over the log of the whole run; the first entry may hold a compilation."""
    values = [record[name] for record in logs.read(workdir) if name in record]
    return float(np.median(values[1:] or values)) if values else None


def _compile(run, state, hyper, ctx, arrays) -> tuple[Callable, float]:
    """The epoch, compiled to reuse the memory of the state it is given, and the time that took."""
    began = time.perf_counter()
    memory.release()
    program = jax.jit(functools.partial(train_epoch, run), donate_argnums=0)
    compiled = program.lower(state, hyper, ctx, arrays).compile()
    memory.release()
    return compiled, time.perf_counter() - began


def check_finite(bad_step: float, steps: int, epoch: int, workdir: Path) -> None:
    """Raises Diverged if an epoch had a step whose loss was not finite."""
    if bad_step >= 0:
        raise Diverged(
            f"the loss is not finite from step {int(bad_step) + 1} of {steps} in epoch {epoch}; "
            f"what came before is in {workdir}; try a smaller optim.lr or optim.clip_norm=1"
        )


def _of_lists(config, data, ctx, variables, test, hyper) -> dict[str, Any]:
    """What the test lists show besides the metrics: slices, and what lies beyond accuracy."""
    lists = test.top(variables, hyper, ctx, max(config.eval.ks))
    cut = int(config.eval.metric.rpartition("@")[2])
    return {
        "slices": slices.measure(data, test.users, lists, config.eval.ks),
        "beyond": beyond.measure(data, test.users, lists[:, :cut]),
        "exposure": page.exposure(data, test.users, lists[:, :cut]),
    }


def summarise(
    run, data, ctx, variables, facts, evaluators, workdir, hyper: dict | None = None
) -> dict[str, Any]:
    """Tests the best parameters once and writes what the run has to show."""
    config = run.config
    means = {}
    for split, measure in evaluators.items():
        measured = measure(variables, hyper or {}, ctx)
        means[split] = run.task.summarise(measured, measure.users)
        entity = run.task.ENTITY
        ids = getattr(data, f"{entity}_ids")[measure.users]
        store.per_query(workdir / f"per_{entity}_{split}.parquet", measured, entity, ids)
        memory.release()
    finish = getattr(run.task, "finish", None)  # what else a task leaves in the workdir
    facts = facts | finish(run, data, ctx, variables, workdir) if finish else facts
    if "test" in evaluators and evaluators["test"].ranks:
        facts = facts | _of_lists(config, data, ctx, variables, evaluators["test"], hyper or {})
    memory.release()
    facts = facts | page.look(run, data, ctx, variables, hyper or {}, workdir)
    summary = {
        "name": config.model.name,
        "data": data.name,
        "protocol": config.eval.protocol,
        "seed": config.seed,
        "split_hash": data.notes.get("split_hash"),
        "split": passport.of(data),
        **means,
        **facts,
        "test_evaluations": evaluation.tested(workdir) + ("test" in evaluators),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {}))),
        "model_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(variables)),
        "peak_memory_bytes": memory.peak(),
        **report.environment(),
        **mesh.facts(variables, run),
        "data_notes": {name: note for name, note in data.notes.items() if name != "passport"},
        "config": json.loads(config.to_json()),
    }
    store.write_json(workdir / "summary.json", summary)
    report.curves(workdir, config.eval.metric)
    return summary
