"""DCCF against numbers recorded from its authors' code (HKUDS/DCCF at c9bcac4), and by hand."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from mmrec_jax.models.graph import dccf
from mmrec_jax.models.graph.dccf import DCCF
from mmrec_jax.ops import edges
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Dataset, Interactions, Spec

TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
FIXTURE = Path(__file__).parent / "fixtures" / "dccf.npz"
NAMES = {
    "user": "user_embedding.weight",
    "item": "item_embedding.weight",
    "user_intent": "user_intent",
    "item_intent": "item_intent",
}


class Side:
    """Our half, with the recorded weights in place and one compiled program."""

    def __init__(self):
        with np.load(FIXTURE) as file:
            self.recorded = r = dict(file)
        hyper = {k.removeprefix("hyper/"): v.item() for k, v in r.items() if k[:6] == "hyper/"}
        none = Interactions(np.zeros(0, np.int32), np.zeros(0, np.int32))
        user, item = r["edge_user"], r["edge_item"]
        repeated = lambda x: np.concatenate([x, x[:7]])  # which must change nothing
        train = Interactions(repeated(user), repeated(item))
        ids = np.arange(30), np.arange(20)
        data = Dataset("recorded", Spec(30, 20), train, none, none, *ids)
        self.model, self.ctx = DCCF(data.spec, **hyper), DCCF.context(data)
        self.params = {ours: jnp.asarray(r[f"param/{n}"]) for ours, n in NAMES.items()}
        batch = (jnp.asarray(r[f"batch_{n}"]) for n in ("user", "item", "negative"))
        padded = (jnp.concatenate([x, (x[:4] + 1) % 20]) for x in batch)  # 20 >= I, 20 < U
        self.batch = Batch(*padded, jnp.ones(20).at[16:].set(0.0))
        self.grad = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def loss(self, params, batch):
        return self.model.apply({"params": params}, batch, self.ctx, method="loss")


@pytest.fixture(scope="module")
def side() -> Side:
    return Side()


def test_agrees_with_the_authors_code_whatever_the_padding(side):
    r, variables = side.recorded, {"params": side.params}
    run = lambda m: m._propagate(side.ctx.graphs["train"])
    nodes, views = jax.jit(lambda v: side.model.apply(v, method=run))(variables)
    (loss, parts), grads = side.grad(side.params, side.batch)
    pairs = {"rep": (nodes, np.concatenate([r["rep/user"], r["rep/item"]]))}
    for number, name in enumerate(("gnn", "int", "gaa", "iaa")):
        pairs[name] = (views[number], r[f"view/{name}"])
    pairs |= {"loss": (loss, r["loss"])}
    pairs |= {name: (part, r[f"loss/{name}"]) for name, part in parts.items()}
    pairs |= {f"grad {k}": (grads[k], r[f"grad/{n}"]) for k, n in NAMES.items()}
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    print(f"\nDCCF: {difference[worst]:.1e} ({worst})")
    assert set(grads) == set(NAMES) and len(parts) == 4
    assert difference[worst] < TOLERANCE, difference


def test_padding_alone_gives_the_prototypes_squares(side):
    _, parts = side.grad(side.params, side.batch.replace(weight=jnp.zeros(20)))[0]
    assert parts.pop("intent_reg") > 0
    assert {name: float(part) for name, part in parts.items()} == dict.fromkeys(parts, 0.0)


def test_distinct_by_hand():
    ids, weight = jnp.int32([2, 0, 2, 1]), jnp.float32([1, 0, 1, 1])
    rows, once = dccf._distinct(ids, weight, 5)
    np.testing.assert_array_equal(rows, ids)
    np.testing.assert_array_equal(once, [1, 0, 0, 1])
    rows, once = dccf._distinct(ids, weight, 3)
    np.testing.assert_array_equal(rows, [0, 1, 2])
    np.testing.assert_array_equal(once, [0, 1, 1])


def test_products_and_their_gradients_are_those_of_dense_matrices():
    rng = np.random.default_rng(0)
    # A user of 40 items, longer than one piece of a row; user 3 and item 41 have nobody.
    user = np.concatenate([np.zeros(40, int), [1, 1, 2, 1]])
    item = np.concatenate([np.arange(40), [3, 40, 0, 3]])
    some = edges.bipartite(user, item, 4, 42)
    count = some.user.size
    assert count == 43  # one pair came twice
    x = jnp.asarray(rng.normal(size=(46, 3)), jnp.float32)
    weight = jnp.asarray(rng.uniform(0.1, 1, count), jnp.float32)
    to, on_edges = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((46, 3), (count,)))

    def dense_matrix(weight):
        half = jnp.zeros((46, 46)).at[some.user, some.item].set(weight)
        return half + half.T

    def dense_mean(weight, x):
        matrix = dense_matrix(weight)
        total = matrix.sum(1, keepdims=True)
        return (matrix @ x) / jnp.where(total > 0, total, 1.0)

    def values(matmul, dots, mean):
        def value(weight, x):
            results = matmul(weight, x), dots(x), mean(weight, x)
            sums = (results[0] * to).sum(), (results[1] * on_edges).sum(), (results[2] * to).sum()
            return jnp.stack(sums), results

        return jax.jit(jax.jacrev(value, argnums=(0, 1), has_aux=True))(weight, x)

    ours = values(
        lambda w, x: edges.matmul(some, w, x),
        lambda x: edges.dots(some, x),
        lambda w, x: edges.mean(some, w, x),
    )
    dense = values(
        lambda w, x: dense_matrix(w) @ x,
        lambda x: (x[some.user] * x[some.item]).sum(-1),
        dense_mean,
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, ours, dense)
    np.testing.assert_array_equal(ours[1][2][jnp.array([3, 45])], np.zeros((2, 3)))


def test_mean_is_zero_where_all_weights_are():
    some = edges.bipartite(np.array([0, 1]), np.array([0, 1]), 2, 2)
    mean = edges.mean(some, jnp.float32([0, 0.5]), jnp.float32([[1], [2], [3], [4]]))
    np.testing.assert_array_equal(mean, [[0], [4], [0], [2]])
