"""REARM against the authors' code, and what ours adds to it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util
from jax.test_util import check_grads

from mmrec_jax.models.multimodal.rearm import REARM
from mmrec_jax.ops import graph, scalar_attention
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Query, Spec, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "rearm.npz"
TOLERANCE = 1e-4  # of the largest entry; both sides compute in float32
HYPER = {
    "layers": "n_layers",
    "item_layers": "n_ii_layers",
    "user_layers": "n_uu_layers",
    "item_k": "num_item_co",
    "user_k": "num_user_co",
    "item_co_weight": "ii_co_weight",
    "user_co_weight": "uu_co_weight",
    "meta_rank": "rank",
    "contrast_weight": "cl_loss_weight",
    "temperature": "cl_tmp",
    "orthogonal_weight": "diff_loss_weight",
}
PLAIN = {"self_dropout": 0.0, "cross_dropout": 0.0}


def _names() -> dict[str, str]:
    """Their parameter by ours."""
    dense = lambda ours, theirs: {
        f"{ours}/kernel": f"{theirs}.weight",
        f"{ours}/bias": f"{theirs}.bias",
    }
    attention = lambda ours, theirs: {
        f"{ours}/kernel": f"{theirs}.in_proj_weight",
        f"{ours}/bias": f"{theirs}.in_proj_bias",
        f"{ours}/out_kernel": f"{theirs}.out_proj.weight",
        f"{ours}/out_bias": f"{theirs}.out_proj.bias",
    }
    names = {
        "user": "user_id_embedding.weight",
        "item": "item_id_embedding.weight",
        "norm/scale": "ly_norm.weight",
        "norm/bias": "ly_norm.bias",
        "bend/negative_slope": "prl.weight",
        "item_content_image/features": "image_embedding.weight",
        "item_content_text/features": "text_embedding.weight",
        "user_content_image/features": "user_v_prefer",
        "user_content_text/features": "user_t_prefer",
        **attention("attend_image", "self_i_attn1"),
        **attention("attend_text", "self_i_attn2"),
        **attention("cross_text_image", "mutual_i_attn1"),
        **attention("cross_image_text", "mutual_i_attn2"),
    }
    for side in ("user", "item"):
        s = side[0]
        for name in ("image", "text"):
            names |= dense(f"{side}_content_{name}/project", f"{name}_{s}_trs")
        for number in (0, 1):
            mlp = f"mlp_{s}{number + 1}"
            names |= dense(f"{side}_meta/Dense_{2 * number}", f"{mlp}.linear_pre")
            names |= dense(f"{side}_meta/Dense_{2 * number + 1}", f"{mlp}.linear_out")
            names[f"{side}_meta/PReLU_{number}/negative_slope"] = f"{mlp}.prl.weight"
    return names


NAMES = _names()
FIXED = {
    f"{s}_meta/{n}": f"meta_net{s[0]}.{t}"
    for s in ("user", "item")
    for n, t in (("kernel", "weight"), ("bias", "bias"))
}


class Side:
    """Our half, with the recorded weights in place, and its one compiled program."""

    def __init__(self):
        with np.load(FIXTURE) as file:
            self.recorded = r = dict(file)
        share = lambda s: (("image", float(s)), ("text", 1.0 - float(s)))
        shares = {
            "item_shares": share(r["hyper/i_image"]),
            "user_shares": share(r["hyper/u_image"]),
        }
        self.hyper = {ours: r[f"hyper/{theirs}"].item() for ours, theirs in HYPER.items()}
        self.hyper |= PLAIN | shares
        features = {n: r[f"features/{n}"] for n in ("image", "text")}
        self.data = made.dataset(r["edge_user"], r["edge_item"], 30, features=features)
        self.model = REARM(self.data.spec, dim=8, **self.hyper)
        self.ctx = REARM.context(self.data, **self.hyper)
        ids = (jnp.asarray(r[f"batch_{n}"]) for n in ("user", "item", "negative"))
        batch = Batch(*ids, jnp.ones(16))
        # Four examples of padding, which must change nothing.
        padded = jax.tree.map(lambda x: jnp.concatenate([x, x[:4]]), batch)
        self.batch = padded.replace(weight=padded.weight.at[16:].set(0.0))
        flat = {tuple(ours.split("/")): self.theirs("param", ours) for ours in NAMES}
        self.params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))
        fixed = {tuple(ours.split("/")): jnp.asarray(self.theirs("param", ours)) for ours in FIXED}
        self.fixed = traverse_util.unflatten_dict(fixed)
        self.run = jax.jit(functools.partial(_both, self.model))

    def theirs(self, kind: str, ours: str) -> np.ndarray:
        value = self.recorded[f"{kind}/{(NAMES | FIXED)[ours]}"]
        single = ours.endswith(("negative_slope", "out_kernel", "out_bias"))
        if single or value.shape == (3, 1):
            return value.reshape(() if single else 3)
        return value.T if ours.endswith("kernel") else value


def _both(model, params, fixed, batch, ctx):
    run = lambda p, *args, method: model.apply({"params": p, "fixed": fixed}, *args, method=method)
    loss = lambda p: run(p, batch, ctx, method="loss")
    rep = run(params, ctx, method="represent")
    return jax.value_and_grad(loss, has_aux=True)(params), rep


@pytest.fixture(scope="module")
def side() -> Side:
    return Side()


def test_agrees_with_the_authors_code(side, record_property):
    """MrShouxingMa/REARM 6502a00; our batch has padding besides, which changes nothing."""
    ((loss, parts), grads), rep = side.run(side.params, side.fixed, side.batch, side.ctx)
    r = side.recorded
    everyone = jnp.arange(30, dtype=jnp.int32)
    empty, pad = jnp.zeros((30, 0), jnp.int32), jnp.zeros(0, jnp.int32)
    query = Query(everyone, everyone >= 0, empty, pad, pad, pad, pad, empty)
    pairs = {"loss": (loss, r["loss"]), "score": (side.model.score(rep, query), r["score"])}
    pairs |= {f"rep {n}": (rep[n], r[f"rep/{n}"]) for n in ("user", "item")}
    pairs |= {f"part {n}": (parts[n], r[f"loss/{n}"]) for n in parts}
    assert {n for n in r if n.startswith("loss/")} == {f"loss/{n}" for n in parts}
    grads = traverse_util.flatten_dict(grads, sep="/")
    # A number added to a whole vector before its layer norm has no gradient but rounding.
    none = [n for n in NAMES if n.endswith("out_bias")]
    assert all(abs(g[n]) < 1e-5 for n in none for g in (grads, {n: side.theirs("grad", n)}))
    rest = [n for n in NAMES if n not in none]
    pairs |= {f"gradient of {n}": (grads[n], side.theirs("grad", n)) for n in rest}
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    record_property("largest_relative_difference", difference[worst])
    print(f"\nREARM: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference


def test_parameters_are_the_authors(side):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    made = jax.eval_shape(lambda: side.model.init(keys, side.batch, side.ctx, method="loss"))
    shapes = {k: v.shape for k, v in traverse_util.flatten_dict(made["params"], sep="/").items()}
    assert shapes == {ours: side.theirs("param", ours).shape for ours in NAMES}
    fixed = {n: side.theirs("param", n).shape for n in FIXED}
    drawn = traverse_util.flatten_dict(made["fixed"], sep="/")
    assert fixed == {n: v.shape for n, v in drawn.items()}
    assert not any(side.theirs("grad", n).any() for n in FIXED)
    assert {f"param/{n}" for n in (NAMES | FIXED).values()} == {
        n for n in side.recorded if "param/" in n
    }


def test_graphs_are_the_authors(side):
    """One user and three items share nothing; a user shares items with two others alone."""
    for name, size in (("user", 30), ("item", 20)):
        dense = graph.matmul(side.ctx.graphs[name], jnp.eye(size))
        np.testing.assert_allclose(dense, side.recorded[f"graph/{name}"], atol=1e-6)


@functools.cache
def _frozen(names):
    """Parameters and program of tiny models, the raw features frozen."""
    model = REARM(Spec(5, 6, feature_dims=names), dim=4, item_k=2, user_k=2, meta_rank=2, **PLAIN,
                  finetune_features=False)  # fmt: skip
    return model, jax.jit(functools.partial(_both, model))


def _tiny(names, missing=()):
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(5, dtype=np.int32), 3)
    item = ((user + np.tile([0, 1, 3], 5)) % 6).astype(np.int32)
    features = {n: rng.normal(size=(6, f)).astype(np.float32) for n, f in names}
    present = {n: np.ones(6, bool) for n, _ in names}
    for name, row in missing:
        present[name][row] = False
    return made.dataset(user, item, 5, features=features, present=present)


def _drawn(model, ctx):
    """Normal parameters: nothing to compile, and no bias is zero."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = lambda: model.init(keys, BATCH, ctx, method="loss")
    rng = np.random.default_rng(1)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    return jax.tree.map(draw, jax.eval_shape(init))


BATCH = Batch(*(jnp.array(x, jnp.int32) for x in ([0, 1, 2], [0, 1, 5], [2, 4, 4])), jnp.ones(3))


@pytest.mark.parametrize("names", [(("text", 3),), (("image", 4), ("text", 3), ("audio", 2))])
def test_any_number_of_modalities_with_missing_rows(names):
    model, run = _frozen(names)
    # Nobody who chose items 0, 1 or 3 (user 0) has seen a first modality.
    data = _tiny(names, [(n, 2) for n, _ in names] + [(names[0][0], i) for i in (0, 1, 3)])
    seen, drawn = [], None
    for value in (0.0, 50.0):  # what stands in a missing row changes nothing
        rows = {n: np.where(data.present[n][:, None], f, value) for n, f in data.features.items()}
        rows = {n: f.astype(np.float32) for n, f in rows.items()}
        fields = {"item_k": 2, "user_k": 2, "finetune_features": False}
        ctx = REARM.context(dataclasses.replace(data, features=rows), **fields)
        drawn = _drawn(model, ctx) if drawn is None else drawn
        seen.append(run(drawn["params"], drawn["fixed"], BATCH, ctx))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *seen)
    ((loss, parts), grads), rep = seen[0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(seen[0]))
    assert rep["user"].shape == (5, 4 * (len(names) + 1))
    assert (parts["contrast"] > 0) == (parts["orthogonal"] > 0) == (len(names) > 1)
    assert not any(name.startswith("cross") for name in drawn["params"]) or len(names) == 3


def test_frozen_and_learned_features_begin_alike(side):
    """The projection of the users' mean is the mean of the projections."""
    frozen = REARM(side.data.spec, dim=8, **side.hyper, finetune_features=False)
    ctx = REARM.context(side.data, **side.hyper, finetune_features=False)
    assert not any(name.startswith("taste") for name in ctx.tables)
    without = {k: v for k, v in side.params.items() if "content" not in k}
    without |= {k: {"project": v["project"]} for k, v in side.params.items() if "content" in k}
    rep = jax.jit(lambda p: frozen.apply(p, ctx, method="represent"))(
        {"params": without, "fixed": side.fixed}
    )
    for name in ("user", "item"):
        np.testing.assert_allclose(rep[name], side.recorded[f"rep/{name}"], rtol=1e-4, atol=1e-5)


def test_scalar_attention_is_the_dense_one_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(5, 4)), jnp.float32) for _ in "qkv")

    def dense(q, k, v):
        weight = jax.nn.softmax(q[:, :, None] * k[:, None, :])
        return jnp.square(jnp.einsum("rab,rb->ra", weight, v)).sum()

    ours = lambda q, k, v: jnp.square(scalar_attention.attend(q, k, v)).sum()
    expected = jax.jit(jax.value_and_grad(dense, argnums=(0, 1, 2)))(q, k, v)
    monkeypatch.setattr(scalar_attention, "_WEIGHTS", 2 * 16)  # two rows at a time, the last padded
    got = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)
    # Logits whose exponentials alone would overflow.
    huge = jax.value_and_grad(ours, argnums=(0, 1, 2))(30 * q, 30 * k, v)
    np.testing.assert_allclose(huge[0], dense(30 * q, 30 * k, v), rtol=1e-4)
    assert all(np.isfinite(g).all() for g in huge[1])


def test_scalar_attention_drops_weights_at_the_rate(monkeypatch):
    monkeypatch.setattr(scalar_attention, "_WEIGHTS", 200 * 50**2)  # two blocks
    # Equal weights over 50 ones: what is left counts what was kept.
    ones, zeros = jnp.ones((400, 50)), jnp.zeros((400, 50))
    attend = jax.jit(
        lambda rate: scalar_attention.attend(zeros, zeros, ones, jax.random.key(0), rate)
    )
    out = np.asarray(attend(0.4))
    deviation = np.sqrt(0.4 * 0.6 / 50) / 0.6
    np.testing.assert_allclose(out.mean(), 1.0, atol=4 * deviation / np.sqrt(out.size))
    np.testing.assert_allclose(out.std(), deviation, rtol=0.03)
    assert len(np.unique(out[:, 0].round(4))) > 10  # not one mask for all rows,
    assert not np.allclose(out[:200], out[200:])  # nor for all blocks
    np.testing.assert_array_equal(attend(1.0), zeros)
    np.testing.assert_allclose(attend(0.0), ones, rtol=1e-6)


def test_scalar_attention_passes_back_what_dropout_spared(monkeypatch):
    monkeypatch.setattr(scalar_attention, "_WEIGHTS", 2 * 16)  # two rows at a time, the last padded
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=(5, 4)), jnp.float32) for _ in "qkv"]
    ours = lambda q, k, v: scalar_attention.attend(q, k, v, jax.random.key(0), 0.4)
    check_grads(ours, inputs, order=1, modes=("rev",), rtol=1e-2, atol=1e-3)


def test_scalar_attention_keeps_bfloat16_though_the_rate_is_traced():
    rows, key = jnp.ones((5, 4), jnp.bfloat16), jax.random.key(0)
    total = lambda x, rate: scalar_attention.attend(x, x, x, key, rate).astype(jnp.float32).sum()
    assert jax.jit(jax.grad(total))(rows, jnp.float32(0.4)).dtype == jnp.bfloat16
    out = jax.jit(lambda x, rate: scalar_attention.attend(x, x, x, key, rate))
    assert out(rows, jnp.float32(0.4)).dtype == jnp.bfloat16


def test_features_are_asked_for_by_name(side):
    bare = dataclasses.replace(side.data, features={}, present={})
    with pytest.raises(UserError, match="tiny: REARM needs item features"):
        REARM.context(bare)
    with pytest.raises(UserError, match="model.item_shares names audio, but tiny has image, text"):
        REARM.context(side.data, **side.hyper | {"item_shares": (("audio", 1.0),)})
