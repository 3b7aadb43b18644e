"""What VBPR, BM3 and FREEDOM add to the authors' code: missing rows, any modalities, any graph."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from mmrec_jax.models.multimodal import bm3, freedom, vbpr
from mmrec_jax.ops import graph, neighbours
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Dataset, UserError


def _without_row(data: Dataset, item: int, name: str) -> Dataset:
    present = {n: p.copy() for n, p in data.present.items()}
    features = {n: f.copy() for n, f in data.features.items()}
    present[name][item], features[name][item] = False, 0
    return dataclasses.replace(data, features=features, present=present)


def _batch(item, negative) -> Batch:
    item, negative = jnp.array(item, jnp.int32), jnp.array(negative, jnp.int32)
    return Batch(jnp.arange(len(item), dtype=jnp.int32), item, negative, jnp.ones(len(item)))


def _parts(method, data, batch, params=None, **hyper):
    """Initial parameters unless given, and the parts of the loss."""
    model, ctx = method(data.spec, dim=8, **hyper), method.context(data, **hyper)
    rngs = {"dropout": jax.random.key(1)}
    if params is None:
        params = model.init({"params": jax.random.key(0)} | rngs, batch, ctx, method="loss")
    loss, parts = model.apply(params, batch, ctx, method="loss", rngs=rngs)
    assert np.isfinite(loss)
    return params, parts


@pytest.mark.parametrize("method", [vbpr.Model, bm3.Model])
def test_features_are_asked_for(method):
    with pytest.raises(UserError, match="tiny: .* needs item features"):
        method.context(made.circle(()))


def test_vbpr_gives_no_content_half_to_an_item_without_features():
    data = made.circle()
    for name in data.features:
        data = _without_row(data, 2, name)
    data = _without_row(data, 3, "text")
    ctx = vbpr.Model.context(data)
    model, batch = vbpr.Model(data.spec, dim=8), _batch([0, 1], [2, 3])
    variables = model.init(jax.random.key(0), batch, ctx, method="loss")
    variables["params"]["project"]["bias"] += 1.0
    item = np.asarray(model.apply(variables, ctx, method="represent")["item"])
    assert (item[2, 8:] == 0).all()
    assert (item[[0, 1, 3], 8:] != 0).all()


def test_bm3_averages_content_terms_over_present_items():
    data, hyper = made.circle(), {"dropout": 0.0, "finetune_features": False}
    params, _ = _parts(bm3.Model, data, _batch([0, 1, 2], [3, 4, 5]), **hyper)
    gap = _without_row(data, 2, "text")
    _, parts = _parts(bm3.Model, gap, _batch([0, 1, 2], [3, 4, 5]), params, **hyper)
    _, present = _parts(bm3.Model, gap, _batch([0, 1], [3, 4]), params, **hyper)
    _, everything = _parts(bm3.Model, data, _batch([0, 1, 2], [3, 4, 5]), params, **hyper)
    for name in ("text_item", "text_text"):
        np.testing.assert_allclose(parts[name], present[name], rtol=1e-6)
    for name in ("image_item", "audio_audio", "user_item"):
        np.testing.assert_allclose(parts[name], everything[name], rtol=1e-6)


def test_freedom_skips_feature_pairs_with_a_missing_row():
    hyper = {"finetune_features": False, "item_layers": 0}
    data = made.circle()
    params, _ = _parts(freedom.Model, data, _batch([0, 1, 2], [3, 4, 5]), **hyper)
    gap = _without_row(_without_row(data, 5, "text"), 1, "image")
    _, parts = _parts(freedom.Model, gap, _batch([0, 1, 2], [3, 4, 5]), params, **hyper)
    _, text = _parts(freedom.Model, data, _batch([0, 1], [3, 4]), params, **hyper)
    _, everything = _parts(freedom.Model, data, _batch([0, 1, 2], [3, 4, 5]), params, **hyper)
    np.testing.assert_allclose(parts["text"], text["text"], rtol=1e-6)
    np.testing.assert_allclose(parts["audio"], everything["audio"], rtol=1e-6)
    assert abs(parts["image"] - everything["image"]) > 1e-6


def test_freedom_needs_no_features_where_a_graph_is_given():
    row, col, weight = np.array([0, 3]), np.array([1, 3]), np.array([0.5, 2.0], np.float32)
    data = dataclasses.replace(made.circle(()), item_graphs={"given": (row, col, weight)})
    params, parts = _parts(freedom.Model, data, _batch([0, 1], [3, 4]))
    assert set(parts) == {"bpr"}
    assert set(params["params"]) == {"user", "item"}
    expected = np.zeros((6, 6), np.float32)
    expected[row, col] = weight
    items = freedom.Model.context(data).graphs["item"]
    np.testing.assert_allclose(graph.matmul(items, jnp.eye(6)), expected)
    with pytest.raises(UserError, match="needs item features or an item graph"):
        freedom.Model.context(made.circle(()))


def test_item_graph_sums_the_named_modalities():
    data = made.circle()
    single = {
        name: np.asarray(graph.matmul(neighbours.item_graph(data, 2, ((name, 1.0),)), jnp.eye(6)))
        for name in data.features
    }
    for name, value in single.items():  # each item: itself and its nearest, 1/2 each
        np.testing.assert_allclose(np.sort(value)[:, -2:], 0.5, rtol=1e-6)
        unit = data.features[name] / np.linalg.norm(data.features[name], axis=1, keepdims=True)
        nearest = np.argsort(-unit @ unit.T, axis=1)[:, :2]
        np.testing.assert_array_equal(
            np.sort(np.nonzero(value)[1].reshape(-1, 2)), np.sort(nearest)
        )
    weighted = neighbours.item_graph(data, 2, (("text", 0.9), ("image", 0.1)))
    equal = neighbours.item_graph(data, 2)
    for adj, expected in (
        (weighted, 0.9 * single["text"] + 0.1 * single["image"]),
        (equal, sum(single.values()) / 3),
    ):
        np.testing.assert_allclose(graph.matmul(adj, jnp.eye(6)), expected, rtol=1e-5)
    with pytest.raises(UserError, match="names vision, but tiny has image, text, audio"):
        neighbours.item_graph(data, 2, (("vision", 1.0),))


def test_freedom_keeps_all_edges_without_dropout():
    data = made.circle()
    model, ctx = freedom.Model(data.spec, dropout=0.0), freedom.Model.context(data)
    params = {"user": jnp.zeros((5, 64)), "item": jnp.zeros((6, 64))}
    assert model.apply({"params": params}, ctx, method="refresh") is ctx


def test_bm3_drops_entries_of_the_targets_only():
    data, batch = made.circle(), _batch([0, 1], [3, 4])
    params, dropped = _parts(bm3.Model, data, batch, dropout=0.5)
    _, whole = _parts(bm3.Model, data, batch, params, dropout=0.0)
    assert all(dropped[n] != whole[n] for n in whole if n != "reg")
    assert dropped["reg"] == whole["reg"]
