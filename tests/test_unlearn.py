"""Forgetting: what a request takes out of the data, the objective, and a run that unlearns."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.baseline import mf
from configs.graph import lightgcn
from configs.sequence import sasrec
from mmrec_jax import data as datasets
from mmrec_jax import evaluate, recommend, store, train, unlearn
from mmrec_jax import run as runs
from mmrec_jax.data import forget
from mmrec_jax.types import Dataset, Interactions, Spec, UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def small():
    """Users a, b, c with items 10, 20, 30, 40."""
    part = lambda user, item: Interactions(np.array(user, np.int32), np.array(item, np.int32))
    return Dataset(
        name="small",
        spec=Spec(3, 4),
        train=part([0, 0, 1, 1, 2], [0, 1, 1, 2, 3]),
        valid=part([0, 1], [2, 0]),
        test=part([0, 1, 2], [3, 3, 0]),
        user_ids=np.array(["a", "b", "c"]),
        item_ids=np.array([10, 20, 30, 40]),
    )


def write(folder, text):
    (folder / "forget.csv").write_text(text)
    return folder / "forget.csv"


@pytest.mark.parametrize(
    "requests,train_left,valid_left,test_left",
    [
        ("user\nb\n", [(0, 0), (0, 1), (2, 3)], [(0, 2)], [(0, 3), (2, 0)]),
        ("item\n20\n", [(0, 0), (1, 2), (2, 3)], [(0, 2), (1, 0)], [(0, 3), (1, 3), (2, 0)]),
        ("user,item\na,10\n", [(0, 1), (1, 1), (1, 2), (2, 3)], [(0, 2), (1, 0)], None),
        ("item,user\n40,a\n", None, [(0, 2), (1, 0)], [(1, 3), (2, 0)]),
        # c is left without training, and so leaves the test
        ("user;item\n;40\na;\n", [(1, 1), (1, 2)], [(1, 0)], []),
    ],
)
def test_requests_take_out_what_they_name(
    small, tmp_path, requests, train_left, valid_left, test_left
):
    left = forget.without(small, write(tmp_path, requests))
    for split, wanted in (("train", train_left), ("valid", valid_left), ("test", test_left)):
        part, whole = getattr(left, split), getattr(small, split)
        pairs = lambda p: list(zip(p.user.tolist(), p.item.tolist(), strict=True))
        assert pairs(part) == (pairs(whole) if wanted is None else wanted), split
        assert left.notes["interactions"][split] == len(part)
    assert left.spec == small.spec and left.user_ids is small.user_ids
    assert left.notes["split_hash"] != small.notes.get("split_hash")


@pytest.mark.parametrize(
    "requests,said",
    [
        ("user,item\na,10\n\nz,10\n", "line 4: unknown user 'z' in small"),
        ("user,item\na,10\na,100\n", "line 3: unknown item '100' in small; near it are 10"),
        ("user,item\na,10\nc,10\nc,20\n", "line 4: small has no interaction of user 'c' and item"),
        ("user,item\na,10\n,\n", "line 3: neither a user nor an item"),
        ("name\nb\n", "no column of users or items; it has name"),
        ("user\na\nb\nc\n", "asks to forget all training interactions"),
    ],
)
def test_mistakes_name_their_row(small, tmp_path, requests, said):
    path = write(tmp_path, requests)
    with pytest.raises(UserError, match=said) as caught:
        forget.without(small, path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_merged_requests_ask_for_both(small, tmp_path):
    (tmp_path / "old.csv").write_text("user\nb\n")
    merged = forget.merge(tmp_path / "old.csv", write(tmp_path, "item,user\n10,a\n10,a\n"))
    assert merged.to_csv(index=False) == "user,item\nb,\na,10\n"


def config_of(module, **changes):
    """Data whose held-out interactions are like those of training, and a run that learns them."""
    config = module.get_config("synthetic")
    config.data.knobs.num_users, config.data.knobs.num_items = 300, 200
    config.data.knobs.mean_interactions, config.data.knobs.drift = 16.0, 0.0
    config.data.split = "ratio"
    config.model.dim, config.train.batch_size, config.optim.lr = 16, 512, 1e-2
    config.train.epochs, config.eval.every, config.eval.block = 25, 5, 512
    config.eval.metrics, config.eval.ks = ("recall",), (20,)
    config.unlearn.alpha, config.unlearn.lr, config.unlearn.epochs = 0.05, 2e-3, 60
    config.update_from_flattened_dict(changes)
    return config


def test_the_objective_weighs_both_losses_and_presses_the_forgotten_down():
    config = config_of(mf)
    run, data, ctx = runs.setup(config)
    half = np.arange(len(data.train)) % 2 == 0
    kept, gone = dataclasses.replace(data, train=data.train.take(~half)), data.train.take(half)
    arrays = unlearn.prepare(run.task, data, kept, gone, config)
    run = dataclasses.replace(run, task=unlearn._task(run.task))
    index, weight = jnp.arange(64), jnp.ones(64)
    batch = run.task.batch(jax.random.key(0), arrays, index, weight)
    assert batch.user.shape == (unlearn.PAIRS,)
    pairs = {tuple(pair) for pair in np.asarray(arrays.forgotten).tolist()}
    known = set(zip(data.train.user.tolist(), data.train.item.tolist(), strict=True))
    triples = np.asarray([batch.user, batch.item, batch.other]).T.tolist()
    assert all((u, i) in pairs and (u, o) not in known for u, i, o in triples)
    model = run.model({}, ctx)
    keys = {"params": jax.random.key(1)}
    variables = model.init(keys, batch.retained, ctx, method="loss")
    value = lambda variables, alpha: model.apply(
        variables, batch, ctx, alpha, method=unlearn.objective
    )
    user, item = (variables["params"][name] for name in ("user", "item"))
    margin = (user[batch.user] * (item[batch.other] - item[batch.item])).sum(-1)
    reverse = jnp.log1p(jnp.exp(-margin)).mean()
    retained = model.apply(variables, batch.retained, ctx, method="loss")[0]
    loss, parts = value(variables, 0.3)
    np.testing.assert_allclose(parts["reverse"], reverse, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.3 * reverse + 0.7 * retained, rtol=1e-5)
    gradient = jax.grad(lambda v: value(v, 1.0)[0])(variables)
    moved = jax.tree.map(lambda v, g: v - 0.1 * g, variables, gradient)
    lower = (moved["params"]["user"] @ moved["params"]["item"].T)[batch.user, batch.item].mean()
    assert lower < (user @ item.T)[batch.user, batch.item].mean()


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory):
    """Directories of trained runs, by configuration."""
    made = {}

    def run_of(module):
        if module not in made:
            made[module] = tmp_path_factory.mktemp("unlearn") / "run"
            train.train(config_of(module), made[module])
        return made[module]

    return run_of


@pytest.fixture
def trained(runs_of):
    return runs_of(mf)


def requests_of(kind, workdir, folder, share=0.05):
    """A file that asks to forget a share of the users, the items or the training interactions."""
    _, data, _, _ = runs.load(workdir)
    rng = np.random.default_rng(0)
    draw = lambda count: rng.choice(count, max(int(share * count), 1), replace=False)
    users = data.user_ids[data.train.user].astype(str)
    items = data.item_ids[data.train.item].astype(str)
    lines = {
        "user": lambda: ["user", *data.user_ids[draw(len(data.user_ids))].astype(str)],
        "item": lambda: ["item", *np.unique(items)[draw(len(np.unique(items)))]],
        "pair": lambda: ["user,item", *(f"{users[n]},{items[n]}" for n in draw(len(users)))],
    }[kind]()
    return write(folder, "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "kind,module",
    [("user", mf), pytest.param("item", lightgcn, marks=pytest.mark.slow), ("pair", mf)],
)
def test_it_forgets_like_a_new_run_and_keeps_the_rest(runs_of, tmp_path, kind, module):
    trained = runs_of(module)
    path = requests_of(kind, trained, tmp_path)
    told = unlearn.unlearn(trained, path, tmp_path / "new")
    assert told == store.read_json(tmp_path / "new" / "unlearn.json", "")
    recall = lambda model, part: told["models"][model][part]["recall@20"]
    before, after, anew = (recall(m, "forgotten") for m in ("before", "unlearned", "retrained"))
    assert before > anew + 0.2
    assert after <= told["unseen"] and abs(after - anew) < 0.15
    assert recall("unlearned", "retained") > 0.95 * recall("before", "retained")
    shown = unlearn.table(told).splitlines()
    assert [line.split()[0] for line in shown] == ["retained", "before", "unlearned", "retrained"]
    assert f"{after:.4f}" in shown[2]
    assert all(model["seconds"] > 0 for model in told["models"].values())


def test_the_new_run_is_one_like_any_other(trained, tmp_path):
    path = requests_of("pair", trained, tmp_path)
    output = tmp_path / "new"
    config = config_of(mf, **{"unlearn.retrain": False, "unlearn.epochs": 2})
    before = {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()}
    told = unlearn.unlearn(trained, path, output, config.unlearn)
    assert {f: f.read_bytes() for f in trained.rglob("*") if f.is_file()} == before
    assert list(told["models"]) == ["before", "unlearned"] and told["settings"]["epochs"] == 2
    path.unlink()  # the new run has its own copy
    run, data, ctx, variables = runs.load(output)
    old = runs.load(trained)
    count = told["forgotten"]["train"]
    assert count > 50 and len(data.train) == len(old[1].train) - count
    summary = json.loads((output / "summary.json").read_text())
    assert evaluate.evaluate(output, "test") == summary["test"]
    assert summary["unlearned_from"] == str(trained)
    assert not np.array_equal(variables["params"]["user"], old[3]["params"]["user"])
    assert recommend.recommend(output, [str(data.user_ids[0])], k=3)["rank"].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match="holds a run already; name another --output"):
        unlearn.unlearn(trained, output / "forget.csv", output)
    # A second request comes on top of the first.
    user = data.user_ids[data.train.user[0]]
    second = write(tmp_path, f"user\n{user}\n")
    unlearn.unlearn(output, second, tmp_path / "newer", config.unlearn)
    left = runs.load(tmp_path / "newer")[1]
    assert len(left.train) == len(data.train) - (data.train.user == data.train.user[0]).sum()


def test_recalls_ask_for_what_stays_and_for_what_goes(small):
    config = config_of(mf, **{"eval.ks": (2,), "eval.metric": "recall@2", "model.dim": 1})
    run, _, ctx = runs.setup(config, small)
    gone = small.train.take(np.array([0]))  # a with 10
    kept = dataclasses.replace(
        small, train=small.train.take(np.arange(1, 5)), test=small.test.take(np.array([0, 1]))
    )
    asked = unlearn._evaluators(run, small, kept, gone)
    assert {kind: e.users.tolist() for kind, e in asked.items()} == {
        "forgotten": [0], "retained": [0, 1], "valid": [0, 1],
    }  # fmt: skip
    params = {"user": jnp.ones((3, 1)), "item": jnp.array([[4.0], [3.0], [2.0], [1.0]])}
    recall = {kind: e.mean({"params": params}, {}, ctx)["recall@2"] for kind, e in asked.items()}
    # 40 comes second for a and b, since all that they had is left out, even 10 for a
    assert recall == {"forgotten": 1.0, "retained": 1.0, "valid": 1.0}


def test_the_unseen_rank_like_the_held_out_the_untrained_or_not_at_all(small):
    part = lambda user, item: Interactions(np.array(user, np.int32), np.array(item, np.int32))
    kept = dataclasses.replace(small, train=part([1, 1, 2], [1, 2, 1]))  # a and 10, 40 are gone
    of = lambda *pairs: unlearn.unseen(kept, part(*pairs), held_out=0.5, untrained=0.25)
    assert of([1, 2], [1, 2]) == 0.5
    assert of([0, 0], [1, 2]) == 0.25
    assert of([0, 1], [0, 3]) == 0.0
    assert of([1, 0, 1, 0], [1, 1, 0, 0]) == (0.5 + 0.25) / 4


@pytest.mark.parametrize(
    "module,changes,said",
    [
        (sasrec, {}, "SASRec is of the task sequence, and only pairwise methods"),
        (mf, {"train.epochs": 0}, "no result of steps"),
    ],
)
def test_runs_that_cannot_unlearn_say_so(tmp_path, module, changes, said):
    config = config_of(module, **{"train.epochs": 1, **changes})
    run, _, _ = runs.setup(config)
    with pytest.raises(UserError, match=said):
        unlearn._check(run)


def test_what_is_only_held_out_was_never_learned(trained, tmp_path):
    _, data, _, _ = runs.load(trained)
    pair = f"{data.user_ids[data.test.user[0]]},{data.item_ids[data.test.item[0]]}"
    with pytest.raises(UserError, match="names no training interaction"):
        unlearn.unlearn(trained, write(tmp_path, f"user,item\n{pair}\n"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_training_can_leave_out_requests_too(trained, tmp_path):
    path = requests_of("user", trained, tmp_path)
    config = config_of(mf, **{"data.forget": str(path)})
    gone = set(path.read_text().split()[1:])
    data = datasets.load(**config.data)
    left = {str(data.user_ids[u]) for p in (data.train, data.valid, data.test) for u in p.user}
    assert len(gone) == 15 and not gone & left


def test_the_launcher_unlearns(trained, tmp_path):
    nobody = write(tmp_path, "user\nnobody\n")
    launch = lambda *flags: subprocess.run(
        [sys.executable, "launch.py", "--mode=unlearn", *flags],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    for flags, said in (
        ([f"--workdir={trained}"], "--mode=unlearn needs --forget"),
        (["--forget=x.csv"], "--mode=unlearn needs --workdir"),
        ([f"--workdir={trained}", f"--forget={nobody}"],
         "line 2: unknown user 'nobody'"),
    ):  # fmt: skip
        done = launch(*flags)
        assert done.returncode == 2 and said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    path = requests_of("item", trained, tmp_path)
    done = launch(
        f"--workdir={trained}", f"--forget={path}", f"--output={tmp_path / 'new'}",
        "--config.unlearn.retrain=False", "--config.unlearn.epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "forgotten recall@20" in done.stdout and "unlearned" in done.stdout
