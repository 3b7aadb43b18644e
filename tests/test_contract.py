"""What every method owes the launcher, checked for each one on the same planted data."""

import dataclasses
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrec_jax import evaluate, queries, train
from mmrec_jax import run as runs
from mmrec_jax.checkpoint import variables_of
from mmrec_jax.models.baseline.popularity import Popularity
from mmrec_jax.types import Dataset, Interactions, Recommender

CONFIGS = sorted(
    ".".join(path.relative_to("configs").with_suffix("").parts)
    for path in (Path("configs")).rglob("*.py")
    if path.stem not in ("base", "__init__")
)


class Case:
    """One method on planted data, with its compiled programs, shared by its tests."""

    def __init__(self, name):
        config = importlib.import_module(f"configs.{name}").get_config("debug")
        config.data.knobs.num_users, config.data.knobs.num_items = 300, 240
        config.optim.lr = 1e-2
        with config.unlocked():
            if "dim" in config.model:
                config.model.dim = 16
            for key in {"k", "item_k", "user_k"} & set(config.model):
                config.model[key] = 1000  # all neighbours, as ties at a cut go by item number
        self.config = config
        self.trained = config.train.epochs > 0
        run, self.data, self.ctx = runs.setup(config)
        size = run.task.size(run.task.prepare(self.data, config))
        config.train.batch_size = min(512, max(size // 5, 1))  # not every example is a pair
        self.ranks = run.method.score is not Recommender.score  # a tokenizer does not
        self.arrays = run.task.prepare(self.data, config)
        steps = -(-run.task.size(self.arrays) // config.train.batch_size)
        self.run = dataclasses.replace(run, steps=steps)
        self.hyper = {"optim.lr": jnp.float32(config.optim.lr)}
        self.epoch = jax.jit(functools.partial(train.train_epoch, self.run))
        self.init = jax.jit(functools.partial(runs.init_state, self.run))
        self.score = jax.jit(self._score)

    def state(self, seed=0):
        return self.init(jax.random.key(seed), self.hyper, self.ctx, self.arrays)

    def variables(self, epochs=0):
        if not self.trained:
            return {}
        state = self.state()
        for _ in range(epochs):
            state, _ = self.epoch(state, self.hyper, self.ctx, self.arrays)
        return {"params": state.params, **state.collections}

    def scores(self, variables, ctx=None, data=None):
        """Scores of all users, [U, I]."""
        data = data or self.data
        everyone = np.arange(data.spec.num_users)
        query = queries.blocks(
            everyone,
            len(everyone),
            len(everyone),
            target=None,
            history=data.train,
            masked=None,
            sequence=queries.windows(data.train, everyone, data.spec.max_len),
        )
        query = jax.tree.map(lambda x: jnp.asarray(x[0]), query)
        return np.asarray(self.score(variables, self.ctx if ctx is None else ctx, query))

    def _score(self, variables, ctx, query):
        model = self.run.model({})
        rep = model.apply(variables, ctx, method="represent")
        return model.apply(variables, rep, query, method="score")

    def context(self, data):
        """What the method reads of other data."""
        own = {k: v for k, v in self.run.fields.items() if k != "spec"}
        known = {f.name for f in dataclasses.fields(self.run.method)} - {"parent", "name", "spec"}
        return self.run.method.context(data, **runs.defaults(self.run.method, known) | own)


@functools.lru_cache(maxsize=1)  # tests of one method run together
def case_of(name):
    return Case(name)


@pytest.fixture(params=CONFIGS, scope="module")
def case(request):
    return case_of(request.param)


@pytest.fixture
def learner(case):
    if not case.trained:
        pytest.skip("closed form: nothing is learned by steps")
    return case


def needs_scores(case):
    if not case.ranks:
        pytest.skip("ranks no items")


def test_no_hyper_parameter_hides_a_method(case):
    hidden = [f.name for f in dataclasses.fields(case.run.method) if hasattr(Recommender, f.name)]
    assert {name for name in hidden if callable(getattr(Recommender, name))} == set()


def test_scores_are_finite_and_repeatable(case):
    needs_scores(case)
    variables = case.variables()
    scores = case.scores(variables)
    assert scores.shape == (case.data.spec.num_users, case.data.spec.num_items)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, case.scores(variables))


def test_every_parameter_receives_gradient(learner):
    state = learner.state()
    size = learner.config.train.batch_size
    index = jnp.arange(size) % learner.run.task.size(learner.arrays)
    batch = learner.run.task.batch(jax.random.key(1), learner.arrays, index, jnp.ones(size))
    model = learner.run.model({})

    def loss(params):
        variables = {"params": params, **state.collections}
        value = model.apply(
            variables,
            batch,
            learner.ctx,
            method="loss",
            rngs={"dropout": jax.random.key(2)},
            mutable=list(state.collections),
        )[0]
        return value[0]

    value, grads = jax.value_and_grad(loss)(state.params)
    assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad != 0), jax.tree_util.keystr(path)


def test_the_loss_falls_and_the_method_beats_popularity(case):
    if case.run.method is Popularity:
        pytest.skip("is popularity itself")
    if "ndcg@10" not in case.run.task.labels(case.config):
        pytest.skip("measures something else; its own tests have a floor for that")

    def quality(run, variables, ctx):
        measure = evaluate.Evaluator(run, case.data, "valid", case.config)
        return measure.mean(variables, {}, ctx)["ndcg@10"]

    popularity = dataclasses.replace(case.run, method=Popularity, fields={"spec": case.data.spec})
    floor = quality(popularity, {}, Popularity.context(case.data))
    reached = []
    if case.trained:
        state, first = case.epoch(case.state(), case.hyper, case.ctx, case.arrays)
        for epoch in range(2, 51):
            state, last = case.epoch(state, case.hyper, case.ctx, case.arrays)
            if epoch in (3, 6) or epoch % 10 == 0:
                variables = {"params": state.params, **state.collections}
                reached.append(quality(case.run, variables, case.ctx))
                if reached[-1] > 1.1 * floor:
                    break
        assert last["loss"] < first["loss"]
    else:
        reached.append(quality(case.run, {}, case.ctx))
    assert max(reached) > 1.1 * floor


def test_nothing_is_traced_again_after_the_first_epoch(learner):
    measure = evaluate.Evaluator(learner.run, learner.data, "valid", learner.config)
    state = learner.state()
    for _ in range(2):
        state, _ = learner.epoch(state, learner.hyper, learner.ctx, learner.arrays)
        measure({"params": state.params, **state.collections}, {}, learner.ctx)
    assert learner.epoch._cache_size() == 1
    assert measure._program._cache_size() == 1


def test_seeds_side_by_side_equal_lone_runs(learner):
    hyper = {"optim.lr": jnp.float32([5e-3, 1e-3])}
    keys = jax.random.split(jax.random.key(7), 2)

    def go(key, hyper):
        state = runs.init_state(learner.run, key, hyper, learner.ctx, learner.arrays)
        return train.train_epoch(learner.run, state, hyper, learner.ctx, learner.arrays)

    both, logs = jax.jit(jax.vmap(go))(keys, hyper)
    for member in range(2):
        own = jax.tree.map(lambda x, m=member: x[m], hyper)
        state = learner.init(keys[member], own, learner.ctx, learner.arrays)
        alone, log = learner.epoch(state, own, learner.ctx, learner.arrays)
        np.testing.assert_allclose(logs["loss"][member], log["loss"], rtol=1e-5)
        if not learner.ranks:
            continue
        mine = learner.scores(jax.tree.map(lambda x, m=member: x[m], variables_of(both)))
        theirs = learner.scores(variables_of(alone))
        # Adam turns the rounding error of a tiny gradient into a step, hence not closer.
        np.testing.assert_allclose(mine, theirs, atol=2e-3 * np.abs(theirs).max())


def relabel(data: Dataset, order: np.ndarray) -> Dataset:
    """The same data with item ``i`` renamed to ``order[i]``."""
    back = np.argsort(order)
    rename = lambda part: Interactions(part.user, order[part.item].astype(np.int32), part.time)
    return dataclasses.replace(
        data,
        train=rename(data.train),
        valid=rename(data.valid),
        test=rename(data.test),
        impressions={
            name: dataclasses.replace(part, item=order[part.item].astype(np.int32))
            for name, part in data.impressions.items()
        },
        features={name: value[back] for name, value in data.features.items()},
        present={name: value[back] for name, value in data.present.items()},
        codes=None if data.codes is None else data.codes[back],
    )


def test_renaming_items_permutes_the_scores(case):
    needs_scores(case)
    variables = case.variables(epochs=1)
    count = case.data.spec.num_items
    order = np.random.default_rng(0).permutation(count)
    renamed = relabel(case.data, order)
    ctx = case.context(renamed)
    move = lambda leaf: leaf[np.argsort(order)] if leaf.shape[:1] == (count,) else leaf
    moved = case.scores(jax.tree.map(move, variables), ctx, renamed)
    np.testing.assert_allclose(moved[:, order], case.scores(variables), rtol=2e-4, atol=2e-5)


def test_shuffled_features_change_the_scores(case):
    name = type(case.run.model({})).__module__
    reads = ".multimodal." in name or case.config.model.get("signal") == "content"
    if not reads:
        pytest.skip("reads no features")
    back = np.random.default_rng(0).permutation(case.data.spec.num_items)
    shuffled = dataclasses.replace(
        case.data, features={name: value[back] for name, value in case.data.features.items()}
    )
    ctx = case.context(shuffled)
    if not case.trained:
        assert np.abs(case.scores({}) - case.scores({}, ctx)).max() > 1e-4
        return
    state = case.state()
    one, _ = case.epoch(state, case.hyper, case.ctx, case.arrays)
    own = case.init(jax.random.key(0), case.hyper, ctx, case.arrays)
    two, _ = case.epoch(own, case.hyper, ctx, case.arrays)
    before = case.scores({"params": one.params, **one.collections}, case.ctx)
    after = case.scores({"params": two.params, **two.collections}, ctx)
    assert np.abs(before - after).max() > 1e-4


def test_bfloat16_trains(learner):
    config = learner.config.copy_and_resolve_references()
    config.train.precision = "bfloat16"
    run = dataclasses.replace(learner.run, config=config)
    epoch = jax.jit(functools.partial(train.train_epoch, run))
    state, logs = epoch(learner.state(), learner.hyper, learner.ctx, learner.arrays)
    exact = learner.epoch(learner.state(), learner.hyper, learner.ctx, learner.arrays)[1]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.params))
    np.testing.assert_allclose(logs["loss"], exact["loss"], rtol=0.05)


def test_importing_a_method_pulls_in_no_launcher_machinery():
    modules = ",".join(f"mmrec_jax.models.{name}" for name in CONFIGS)
    code = (
        f"import sys, {modules}\n"
        "bad = {'ml_collections', 'tensorflow_datasets', 'orbax.checkpoint', 'pandas', 'configs'}\n"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
