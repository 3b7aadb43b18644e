"""AlignRec against the authors' code, its parts by hand, and measures of given features."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util

from mmrec_jax import alignment, losses
from mmrec_jax.models.multimodal.alignrec import AlignRec, _matched
from mmrec_jax.ops import graph, neighbours
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Interactions, Query, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "alignrec.npz"
TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
HYPER = {
    "layers": "n_ui_layers",
    "item_layers": "n_layers",
    "knn_k": "knn_k",
    "contrast_weight": "cl_loss",
    "reg_weight": "reg_weight",
    "similarity_weight": "sim_weight",
    "cosine_weight": "ui_cosine_loss_weight",
}
PARAMS = {
    "user": "user_embedding.weight",
    "item": "item_id_embedding.weight",
    "content_image/features": "mm_embedding.weight",
    "content_image/project/kernel": "mm_trs.weight",
    "content_bias": "mm_trs.bias",
    "purify/Dense_0/kernel": "gate_v.0.weight",
    "purify/Dense_0/bias": "gate_v.0.bias",
}
NEVER_CALLED = ("query_common.0.weight", "query_common.0.bias", "query_common.2.weight") + (
    "gate_mm_prefer.0.weight",
    "gate_mm_prefer.0.bias",
)


def _query(num_users: int) -> Query:
    empty, pad = jnp.zeros((num_users, 0), jnp.int32), jnp.zeros(0, jnp.int32)
    everyone = jnp.arange(num_users, dtype=jnp.int32)
    return Query(everyone, everyone >= 0, empty, pad, pad, pad, pad, empty)


class Side:
    """Our half, with the recorded weights, and one compiled program for all that is compared."""

    def __init__(self):
        with np.load(FIXTURE) as file:
            self.recorded = r = dict(file)
        hyper = {ours: r[f"hyper/{theirs}"].item() for ours, theirs in HYPER.items()}
        features = {"image": r["features/image"]}
        data = made.dataset(r["edge_user"], r["edge_item"], r["num_users"], features=features)
        self.model = model = AlignRec(data.spec, dim=int(r["dim"]), **hyper)
        self.ctx = AlignRec.context(data, **hyper)
        ids = [jnp.asarray(r[f"batch_{n}"]) for n in ("user", "item", "negative")]
        # The last three examples only fill the batch up.
        padded = [jnp.concatenate([x, x[:3]]) for x in ids]
        self.batch = Batch(*padded, jnp.ones(len(padded[0])).at[-3:].set(0.0))
        flat = {tuple(ours.split("/")): self.theirs("param", ours) for ours in PARAMS}
        self.params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))

        @jax.jit
        def all_of(params, batch, ctx):
            run = lambda p, *args, method: model.apply({"params": p}, *args, method=method)
            got = jax.value_and_grad(lambda p: run(p, batch, ctx, method="loss"), has_aux=True)
            rep = run(params, ctx, method="represent")
            score = run(params, rep, _query(model.spec.num_users), method="score")
            return got(params), rep, score, run(params, rep, ctx, method="explain")

        self.run = all_of

    def theirs(self, kind: str, ours: str) -> np.ndarray:
        value = self.recorded[f"{kind}/{PARAMS[ours]}"]
        return value.T if ours.endswith("kernel") else value


@pytest.fixture(scope="module")
def side() -> Side:
    return Side()


def test_agrees_with_the_authors_code(side):
    """sjtulyf123/AlignRec_CIKM24 bf351b6; ours has padding in the batch besides."""
    ((loss, parts), grads), rep, score, _ = side.run(side.params, side.batch, side.ctx)
    r = side.recorded
    pairs = {"loss": (loss, r["loss"]), "score": (score, r["score"])}
    pairs |= {f"rep {n}": (rep[n], r[f"rep/{n}"]) for n in ("user", "item")}
    pairs |= {f"part {n}": (parts[n], r[f"loss/{n}"]) for n in parts}
    flat = traverse_util.flatten_dict(grads, sep="/")
    assert set(flat) == set(PARAMS)
    pairs |= {f"gradient of {n}": (value, side.theirs("grad", n)) for n, value in flat.items()}
    assert set(parts) == {"bpr", "reg", "contrast", "cosine", "similarity"}
    difference = {name: made.difference(*pair) for name, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    print(f"\nAlignRec: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference
    recorded = {k.removeprefix("param/") for k in r if k.startswith("param/")}
    assert recorded == {*PARAMS.values(), *NEVER_CALLED}
    assert not any(np.abs(r[f"grad/{name}"]).any() for name in NEVER_CALLED)


def test_similarity_stays_with_the_given_features_if_asked(side):
    r, rows = side.recorded, side.recorded["batch_item"]
    model = dataclasses.replace(side.model, fixed_similarity=True)
    loss = lambda p: model.apply({"params": p}, side.batch, side.ctx, method="loss")
    parts = jax.jit(loss)(side.params)[1]
    unit = r["features/image"][rows]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    view = r["rep/side"][r["num_users"] + rows]
    gap = np.linalg.norm(view @ view.T - unit @ unit.T) / len(rows)
    np.testing.assert_allclose(parts["similarity"], gap, rtol=1e-5)
    assert abs(gap - r["loss/similarity"]) > 1e-3


def test_explains_by_cosines_of_pairs_and_of_mismatched_ones(side):
    told = side.run(side.params, side.batch, side.ctx)[-1]
    assert {name: x.shape for name, x in told.items()} == {
        name: (2,) for name in ("content_id_user", "content_id_item", "user_item")
    }
    first = jnp.array([[2.0, 0], [0, 1], [1, 0], [5, 5]])
    second = jnp.array([[1.0, 0], [0, 3], [-1, 0], [7, 7]])
    where = jnp.array([True, True, True, False])
    # Own: 1, 1, -1. With the one two rows away: -1, (0, 1) with (7, 7), and 1.
    np.testing.assert_allclose(_matched(first, second, where), [1 / 3, 0.5**0.5 / 3], rtol=1e-6)


def test_similarity_gap_by_hand():
    rows = jnp.array([[1.0, 0], [1, 2], [9, 9]])
    similarity = jnp.array([[1.0, 0, 7], [0, 1, 7], [7, 7, 7]])
    where = jnp.array([1.0, 1, 0])
    # Products 1, 1, 1, 5 less 1, 0, 0, 1: the norm of (0, 1, 1, 4), over two rows.
    gap = losses.similarity_gap(rows, similarity, where)
    np.testing.assert_allclose(gap, 18**0.5 / 2, rtol=1e-6)
    slope = jax.grad(losses.similarity_gap)(rows, similarity, 0 * where)
    assert not slope.any()


def test_unified_vectors_by_hand():
    features = {
        "image": np.array([[3.0, 4], [0, 2], [0, 0], [9, 9]], np.float32),
        "text": np.array([[2.0], [-1], [5], [0]], np.float32),
    }
    present = {"image": np.array([True, True, False, False]), "text": np.ones(4, bool)}
    edges = np.zeros(1, np.int32)
    rows, share = neighbours.unified(
        made.dataset(edges, edges, 1, features=features, present=present)
    )
    half = 0.5**0.5  # a zero row says as little as a missing one
    np.testing.assert_allclose(share, [[half, half], [half, half], [0, 1], [0, 0]], rtol=1e-6)
    expected = [[0.6 * half, 0.8 * half, half], [0, half, -half], [0, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    np.testing.assert_allclose(rows[0] @ rows[1], (0.8 - 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("names", [("audio",), ("image", "text", "audio")])
def test_any_number_of_modalities_with_missing_rows(names):
    data = made.circle(names, [(n, 2) for n in names] + [(names[0], 4)])
    noisy = {n: f.copy() for n, f in data.features.items()}
    for name, row in [*((n, 2) for n in names), (names[0], 4)]:
        noisy[name][row] = 100.0  # what stands in a missing row changes nothing
    model = AlignRec(data.spec, dim=8, knn_k=3, finetune_features=False)
    ids = (jnp.array(x, jnp.int32) for x in ([0, 1, 2], [0, 1, 2], [2, 4, 4]))
    batch = Batch(*ids, jnp.ones(3))
    ctx = AlignRec.context(data, knn_k=3)
    noise = dataclasses.replace(data, features=noisy)

    @jax.jit
    def both(ctx, noisy):
        params = model.init(jax.random.key(0), batch, ctx, method="loss")
        run = lambda ctx: (
            model.apply(params, batch, ctx, method="loss"),
            model.apply(params, ctx, method="represent"),
        )
        return params["params"], run(ctx), run(noisy)

    params, plain, other = both(ctx, AlignRec.context(noise, knn_k=3))
    (loss, parts), rep = plain
    assert np.isfinite(loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain, other)
    # An item that shows nothing has its place in the user-item graph alone.
    nodes = jnp.concatenate([params["user"], params["item"]])
    nodes = graph.mean_propagate(ctx.graphs["train"], nodes, 2)
    np.testing.assert_allclose(rep["item"][2], nodes[5 + 2], rtol=1e-5, atol=1e-6)
    # Item 2 of the batch has no part in the regression: the other two, over two.
    view = rep["item"][:2] - nodes[5 : 5 + 2]
    rows = neighbours.unified(data)[0][:2]
    gap = np.linalg.norm(view @ view.T - rows @ rows.T) / 2
    np.testing.assert_allclose(parts["similarity"], gap, rtol=1e-4)
    users = rep["user"][:3] - nodes[:3]
    contrast = losses.infonce(view, nodes[5 : 5 + 2], jnp.ones(2), 0.2)
    contrast += losses.infonce(users, nodes[:3], jnp.ones(3), 0.2)
    np.testing.assert_allclose(parts["contrast"], contrast, rtol=1e-4)


def test_features_are_asked_for():
    with pytest.raises(UserError, match="tiny: .* needs item features"):
        AlignRec.context(made.circle(()))


FEATURES = np.array([[1.0, 0], [0, 2], [3, 4], [0, 0]], np.float32)
PRESENT = np.array([True, True, True, False])


def _history() -> Query:
    """User 0 had items 0 and 2 (twice), user 1 only the one without features."""
    row, item = jnp.array([0, 0, 0, 1, 2], jnp.int32), jnp.array([0, 2, 2, 3, 0], jnp.int32)
    return _query(2).replace(history_row=row, history_item=item)


def test_zero_shot_by_hand():
    scores = alignment.zero_shot(FEATURES, _history())
    # The mean of (1, 0) and (3, 4) is (2, 2), whose cosines are those with (1, 1).
    expected = [[0.5**0.5, 0.5**0.5, 7 / 5 * 0.5**0.5, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_item_cf_by_hand():
    # The nearest other item of 0 is 2 (cosine .6), of 1 it is 2 (.8), and of 2 it is 1.
    near = alignment.neighbours_of(FEATURES, PRESENT, k=2)
    scores = alignment.item_cf(near, _history(), num_items=4)
    np.testing.assert_allclose(scores, [[1, 0.8, 1.6, 0], [0, 0, 0, 0]], atol=1e-6)


def test_evaluates_features_whole_and_masked():
    rng = np.random.default_rng(0)
    taste = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)  # items 0..9 and 10..19 are alike
    noise = rng.normal(size=(20, 3)).astype(np.float32)
    user = np.repeat(np.arange(4, dtype=np.int32), 4)
    item = np.concatenate([rng.permutation(10)[:5] + 10 * (u % 2) for u in range(4)])
    first = np.tile([True, True, True, True, False], 4)
    test = Interactions(np.arange(4, dtype=np.int32), item[~first].astype(np.int32))
    features = {"image": taste, "text": noise}
    data = made.dataset(user, item[first], 4, features=features, test=test)
    told = alignment.evaluate(data, share=0.5, names=("recall",), ks=(6,))
    assert list(told) == [
        "image",
        "text",
        "unified",
        "unified, image masked",
        "unified, text masked",
    ]
    assert told["image"]["zero_shot"] == {"recall@6": 1.0}  # 6 of 10 alike are left to guess
    assert told["image"]["item_cf"] == {"recall@6": 1.0}
    masked = told["unified, image masked"]["zero_shot"]["recall@6"]
    assert masked < told["unified"]["zero_shot"]["recall@6"] or masked < 1.0
    with pytest.raises(UserError, match="share is 1.5"):
        alignment.evaluate(data, share=1.5)
