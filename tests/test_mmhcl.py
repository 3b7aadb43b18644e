"""MMHCL and its hypergraphs against the authors' code, dense arithmetic and hand-worked cases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util

from mmrec_jax.models.multimodal.mmhcl import MMHCL
from mmrec_jax.ops import graph, hypergraph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Query, Spec, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "mmhcl.npz"
TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
PARAMS = {
    "user": "user_ui_embedding.weight",
    "item": "item_ui_embedding.weight",
    "user_second": "uu_embedding.weight",
    "item_second": "ii_embedding.weight",
}


@jax.jit
def _both(fields, params, batch, ctx):
    """Loss with parts, gradients and representations; one program for the whole file."""
    model = MMHCL(Spec(30, 20), dim=8, **fields)
    loss = lambda p: model.apply({"params": p}, batch, ctx, method="loss")
    return (
        jax.value_and_grad(loss, has_aux=True)(params),
        model.apply({"params": params}, ctx, method="represent"),
    )


@pytest.fixture(scope="module")
def recorded():
    with np.load(FIXTURE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def side(recorded):
    r = recorded
    names = ("reg_weight", "user_weight", "item_weight", "temperature")
    fields = {n: jnp.float32(r[f"hyper/{n}"]) for n in names}
    features = {n: r[f"features/{n}"] for n in ("image", "text")}
    data = made.dataset(r["edge_user"], r["edge_item"], 30, 20, features)
    ctx = MMHCL.context(data, knn_k=int(r["hyper/knn_k"]))
    ids = (jnp.asarray(r[f"batch_{n}"]) for n in ("user", "item", "negative"))
    batch = Batch(*ids, jnp.ones(16))
    params = {ours: jnp.asarray(r[f"param/{theirs}"]) for ours, theirs in PARAMS.items()}
    # Four examples of padding, so that one program serves all tests.
    padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:4]]), batch)
    batch = padded.replace(weight=padded.weight.at[16:].set(0.0))
    return data, fields, params, batch, ctx


def test_agrees_with_the_authors_code(recorded, side, record_property):
    """Xu107/MMHCL 0ceaa26; our batch has padding besides, which changes nothing."""
    data, fields, params, batch, ctx = side
    ((loss, parts), grads), rep = _both(fields, params, batch, ctx)
    everyone = jnp.arange(30, dtype=jnp.int32)
    none, pad = jnp.zeros((30, 0), jnp.int32), jnp.zeros(0, jnp.int32)
    query = Query(everyone, everyone >= 0, none, pad, pad, pad, pad, none)
    pairs = {"loss": (loss, recorded["loss"]), "score": (MMHCL(data.spec).score(rep, query),)}
    pairs["score"] += (recorded["score"],)
    pairs |= {f"rep {n}": (rep[n], recorded[f"rep/{n}"]) for n in ("user", "item")}
    pairs |= {f"part {n}": (parts[n], recorded[f"loss/{n}"]) for n in parts}
    assert {n for n in recorded if n.startswith("loss/")} == {f"loss/{n}" for n in parts}
    for ours, theirs in PARAMS.items():
        pairs[f"gradient of {ours}"] = (grads[ours], recorded[f"grad/{theirs}"])
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    record_property("largest_relative_difference", difference[worst])
    print(f"\nMMHCL: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference


def test_parameters_are_the_authors(recorded, side):
    data, _, _, batch, ctx = side
    model = MMHCL(data.spec, dim=8)
    init = lambda: model.init(jax.random.key(0), batch, ctx, method="loss")
    shapes = {k: v.shape for k, v in traverse_util.flatten_dict(jax.eval_shape(init)).items()}
    assert shapes == {("params", o): recorded[f"param/{t}"].shape for o, t in PARAMS.items()}


def test_hypergraphs_are_the_authors_dense_matrices(recorded, side):
    for name, size in (("user", 30), ("item", 20)):
        dense = hypergraph.matmul(side[-1].graphs[name], jnp.eye(size))
        np.testing.assert_allclose(dense, recorded[f"graph/{name}"], atol=1e-6)


def test_missing_rows_and_any_number_of_modalities(side):
    data = side[0]
    extra = {"audio": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) + 1}
    for features in ({"text": data.features["text"]}, {**data.features, **extra}):
        present = {n: np.arange(20) != 3 for n in features}
        present["text"] = present["text"] & (np.arange(20) != 5)
        seen = []
        for value in (0.0, 50.0):  # what stands in a missing row changes nothing
            rows = {n: np.where(present[n][:, None], f, value) for n, f in features.items()}
            some = dataclasses.replace(data, features=rows, present=present)
            dense = hypergraph.matmul(MMHCL.context(some, knn_k=4).graphs["item"], jnp.eye(20))
            seen.append(np.asarray(dense))
        np.testing.assert_array_equal(*seen)
        assert not seen[0][3].any() and not seen[0][:, 3].any()
        assert seen[0][5].any() == (len(features) == 3)
        # H H^T of the dense incidence, by its definition.
        near = []
        for name, x in features.items():
            x = np.where(present[name][:, None], x, 0)
            x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
            cosine = np.where(present[name][None], x @ x.T, -1.0)
            cut = np.sort(cosine, axis=1)[:, -4, None]
            near.append((cosine >= cut) & (cosine > 0) & present[name][:, None])
        both = np.concatenate(near, axis=1).astype(float)
        both = both @ both.T
        root = np.where(both.sum(1) > 0, both.sum(1), np.inf) ** -0.5
        np.testing.assert_allclose(seen[0], root[:, None] * both * root[None], atol=1e-6)


def test_a_node_without_a_hypergraph_part_has_its_place_in_the_user_item_graph_alone(side):
    """User 29 shares items with no one; item 3 loses its content here."""
    data, fields, params, _, ctx = side
    mask = jnp.where(jnp.arange(20) == 3, 0.0, 1.0)
    items = ctx.graphs["item"].replace(scale=mask)
    ctx = ctx.replace(graphs={**ctx.graphs, "item": items})
    model = MMHCL(data.spec, dim=8, **fields)
    rep = jax.jit(lambda c: model.apply({"params": params}, c, method="represent"))(ctx)
    nodes = jnp.concatenate([params["user"], params["item"]])
    nodes = graph.mean_propagate(ctx.graphs["train"], nodes, 2)
    np.testing.assert_allclose(rep["user"][29], nodes[29], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rep["item"][3], nodes[33], rtol=1e-5, atol=1e-6)
    length = jnp.linalg.norm(rep["user"][:29] - nodes[:29], axis=1)
    np.testing.assert_allclose(length, np.ones(29), rtol=1e-5)


def test_features_are_asked_for(side):
    data = dataclasses.replace(side[0], features={}, present={})
    with pytest.raises(UserError, match="tiny: .* needs item features"):
        MMHCL.context(data)
