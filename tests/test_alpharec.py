"""AlphaRec against numbers recorded from its authors' code (LehengTHU/AlphaRec at 4b6c6cf)."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from mmrec_jax.models.graph.alpharec import AlphaRec
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import UserError

TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
FIXTURE = Path(__file__).parent / "fixtures" / "alpharec.npz"
RNGS = {"dropout": jax.random.key(0)}


@pytest.mark.parametrize("version", ["mlp", "homo"])
def test_agrees_with_the_authors_code_whatever_the_padding(version):
    with np.load(FIXTURE) as file:
        recorded = dict(file)
    own = {k.removeprefix(f"{version}/"): v for k, v in recorded.items() if k.startswith(version)}
    scaled = {"image": 3.0 * recorded["features/image"], "text": 0.2 * recorded["features/text"]}
    data = made.dataset(recorded["edge_user"], recorded["edge_item"], 30, 20, scaled)
    hyper = {"layers": int(own["layers"]), "temperature": float(own["temperature"])}
    hidden = 9 if version == "mlp" else 0
    model, ctx = AlphaRec(data.spec, dim=8, hidden=hidden, **hyper), AlphaRec.context(data)

    ids = (recorded[f"batch_{n}"] for n in ("user", "item", "negative"))
    padded = (jnp.asarray(np.concatenate([x, x[:4]])) for x in ids)
    batch = Batch(*padded, jnp.ones(20).at[16:].set(0.0))
    drawn = jnp.asarray(np.concatenate([recorded["negatives"], np.zeros((4, 6), np.int32)]))

    def loss(params):
        variables = {"params": params}
        value, parts = model.apply(variables, batch, ctx, drawn, method="drawn_loss")
        return value, (parts, model.apply(variables, ctx, method="represent"))

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (parts, rep)), grads = grad(_translated(own, "param"))
    theirs = _translated(own, "grad")
    pairs = {"loss": (value, own["loss"]), "part": (parts["softmax"], own["loss"])}
    directions = {n: _directions(own[f"rep/{n}"]) for n in ("user", "item")}
    pairs |= {name: (rep[name], directions[name]) for name in rep}
    score = rep["user"] @ rep["item"].T
    pairs |= {"score": (score, own["score"])}
    assert jax.tree.structure(grads) == jax.tree.structure(theirs)
    flat = jax.tree_util.tree_leaves_with_path(grads)
    pairs |= {
        f"grad {jax.tree_util.keystr(path)}": (ours, other)
        for (path, ours), other in zip(flat, jax.tree.leaves(theirs), strict=True)
    }
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    print(f"\nAlphaRec {version}: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference


def test_missing_rows_add_nothing_and_change_no_other():
    rng = np.random.default_rng(0)
    features = {n: rng.normal(size=(5, f)).astype(np.float32) for n, f in (("a", 3), ("b", 2))}
    present = {"a": np.array([1, 1, 0, 0, 1], bool), "b": np.array([0, 1, 1, 0, 1], bool)}
    features = {n: np.where(present[n][:, None], x, 0) for n, x in features.items()}
    features["c"] = np.ones((5, 1), np.float32)  # all there
    present["c"] = np.ones(5, bool)
    user, item = np.int32([0, 0, 0, 1, 1, 2, 3]), np.int32([0, 1, 2, 3, 2, 3, 0])
    data = made.dataset(user, item, 5, 5, features, present)  # user 4 has no items
    model, ctx = AlphaRec(data.spec, dim=2, hidden=4), AlphaRec.context(data)
    batch = Batch(*(jnp.zeros(1, jnp.int32),) * 3, jnp.ones(1))
    params = model.init({"params": RNGS["dropout"], **RNGS}, batch, ctx, method="loss")["params"]

    rows, means = [], []
    for name, x in features.items():
        row = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        rows.append(row)
        of_user = [item[(user == u) & present[name][item]] for u in range(5)]
        means.append(np.stack([row[i].sum(0) / max(len(i), 1) for i in of_user]))
    nodes = np.concatenate([np.concatenate(means, 1), np.concatenate(rows, 1)])
    params = jax.tree.map(np.asarray, params)
    kernel = np.concatenate([params[f"content_{n}"]["kernel"] for n in features])
    hidden = nodes @ kernel + params["bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    layer = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    adjacency = np.asarray(graph.matmul(ctx.graphs["train"], jnp.eye(10)))
    total = layer + adjacency @ layer + adjacency @ adjacency @ layer
    rep = model.apply({"params": params}, ctx, method="represent")
    ours = np.concatenate([rep["user"], rep["item"]])
    np.testing.assert_allclose(ours, _directions(total), rtol=1e-4, atol=1e-6)


def test_negatives_are_new_ones_of_the_user():
    """User 0 has all items but 3; user 1 has none but 0, so that four are left to draw."""
    user, item = np.int32([0, 0, 0, 0, 1]), np.int32([0, 1, 2, 4, 0])
    rng = np.random.default_rng(1)
    data = made.dataset(user, item, 2, 5, {"text": rng.normal(size=(5, 4)).astype(np.float32)})
    model, ctx = AlphaRec(data.spec, dim=3, hidden=0, negatives=7), AlphaRec.context(data)
    batch = Batch(*(jnp.array([i, i]) for i in (0, 1, 0)), jnp.ones(2))
    params = model.init({"params": RNGS["dropout"], **RNGS}, batch, ctx, method="loss")["params"]
    assert jax.tree.map(jnp.shape, params) == {"content_text": {"kernel": (4, 3)}}
    loss = lambda b, key: model.apply(
        {"params": params}, b, ctx, method="loss", rngs={"dropout": jax.random.key(key)}
    )[0]
    only = jnp.full((2, 7), 3)
    fixed = model.apply({"params": params}, batch, ctx, only, method="drawn_loss")[0]
    np.testing.assert_allclose(loss(batch, 1), fixed, rtol=1e-6)
    free = batch.replace(user=jnp.array([1, 1]), item=jnp.array([0, 0]))
    assert loss(free, 1) != loss(free, 2)


def test_reads_the_modalities_it_is_told():
    features = {n: np.ones((3, 2), np.float32) for n in ("image", "text")}
    data = made.dataset(np.int32([0]), np.int32([1]), 1, 3, features)
    ctx = AlphaRec.context(data, modalities=("text",))
    assert list(ctx.features) == ["text"] and ctx.graphs["mean"].transpose is not None
    with pytest.raises(UserError, match=r"no features named 'sound'; there are image, text"):
        AlphaRec.context(data, modalities=("sound",))
    bare = made.dataset(np.int32([0]), np.int32([1]), 1, 3, {})
    with pytest.raises(UserError, match=r"AlphaRec has no ids and finds no item features; give"):
        AlphaRec.context(bare)


def _translated(recorded, kind: str):
    """Recorded parameters or their gradients as ours: kernels transposed, split by modality."""
    values = {k.removeprefix(f"{kind}/"): v for k, v in recorded.items() if k.startswith(kind)}
    image, text = np.split(values["mlp.0.weight"].T, [12])
    params = {"content_image": {"kernel": image}, "content_text": {"kernel": text}}
    if "mlp.2.weight" in values:
        params["bias"] = values["mlp.0.bias"]
        params["out"] = {"kernel": values["mlp.2.weight"].T, "bias": values["mlp.2.bias"]}
    return jax.tree.map(jnp.asarray, params)


def _directions(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
