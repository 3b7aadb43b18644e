"""CM3 and LIRDRec, whose items are content alone: against the authors' code, and what ours adds."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import optax
import pytest
from flax import traverse_util

from mmrec_jax.models.multimodal.cm3 import CM3
from mmrec_jax.models.multimodal.lirdrec import LIRDRec
from mmrec_jax.ops import spectral, sphere
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import UserError

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
HYPER = {
    CM3: {
        "uniformity_weight": "gamma",
        "min_similarity": "min_sim",
        "max_similarity": "max_sim",
        "concentration": "alpha",
    },
    LIRDRec: {
        "reg_weight": "reg_weight",
        "network_share": "decay_weight",
        "decay_base": "decay_base",
    },
}
COMMON = {
    "dim": "embedding_size",
    "layers": "n_ui_layers",
    "item_layers": "n_mm_layers",
    "knn_k": "knn_k",
}


def _dense(ours: str, theirs: str, bias: bool = True) -> dict[str, str]:
    names = {f"{ours}/kernel": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}
    return names if bias else {f"{ours}/kernel": f"{theirs}.weight"}


def _content(ours: str, theirs: str) -> dict[str, str]:
    hidden = _dense(f"content_{ours}/ProjectRows_0", f"{theirs}_MLP")
    return hidden | _dense(f"content_{ours}/Dense_0", f"{theirs}_MLP_1", bias=False)


def _network(ours: str, theirs: str) -> dict[str, str]:
    hidden = _dense(f"network_{ours}/Dense_0", f"fusion_module.weco_{theirs}.fc1")
    return hidden | _dense(f"network_{ours}/Dense_1", f"fusion_module.weco_{theirs}.fc2")


# Several names: side by side in ours.
USER = {"user": ("v_preference", "t_preference", "id_preference")}
ITEM = _content("image", "v") | _content("text", "t")
PARAMS = {
    CM3: USER
    | ITEM
    | {"fusion": "theta"}
    | _dense("point_image/project", "image_nn")
    | _dense("point_text/project", "text_nn"),
    LIRDRec: USER
    | ITEM
    | _content("shared", "s")
    | {"own": "fusion_module.theta"}
    | _network("image", "a")
    | _network("text", "b")
    | _network("shared", "c"),
}


class Side:
    """Our half of one comparison, with the recorded weights in place and one compiled step."""

    def __init__(self, method):
        self.method, self.names = method, PARAMS[method]
        with np.load(FIXTURES / f"{method.__name__.lower()}.npz") as file:
            self.recorded = r = dict(file)
        hyper = {k: r[f"hyper/{v}"].item() for k, v in (COMMON | HYPER[method]).items()}
        image = r["hyper/mm_image_weight"].item()
        hyper["modality_weights"] = (("image", image), ("text", 1 - image))
        features = {n: r[f"features/{n}"] for n in ("image", "text")}
        data = made.dataset(
            r["edge_user"], r["edge_item"], r["num_users"], r["num_items"], features
        )
        self.model, self.ctx = method(data.spec, **hyper), method.context(data, **hyper)
        ids = (jnp.asarray(r[f"batch_{n}"]) for n in ("user", "item", "negative"))
        # Some padding of weight 0, of items that stand nowhere else in the batch.
        user, item, negative = (jnp.concatenate([x, jnp.full(3, 19, x.dtype)]) for x in ids)
        self.batch = Batch(user, item, negative, jnp.ones(user.shape).at[-3:].set(0.0))
        self.params = self.tree("param")
        self.step = jax.jit(self._step)

    def _step(self, params, ctx, kept):
        """Loss, parts, gradient and representations; and what the loss kept."""

        def loss(params):
            variables = {"params": params, **kept}
            if self.method is CM3:
                args, name = (self.recorded["mix"], self.batch, ctx), "loss_at"
            else:
                args, name = (self.batch, ctx), "loss"
            got = self.model.apply(variables, *args, method=name, mutable=list(kept))
            (value, parts), changed = got
            return value, (parts, changed)

        (value, (parts, changed)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        variables = {"params": params, **kept}
        if self.method is CM3:
            user, item, shared = self.model.apply(
                variables, ctx, self.recorded["mix"], method="propagate"
            )
            rep = {"user": user, "item": item, "shared": shared}
        else:
            rep = self.model.apply(variables, ctx, method="represent")
        return value, parts, grads, rep, changed

    def theirs(self, kind: str, ours: str) -> np.ndarray:
        names = self.names[ours]
        values = [
            self.recorded[f"{kind}/{n}"] for n in ((names,) if isinstance(names, str) else names)
        ]
        values = [v[..., 0] if v.ndim == 3 else v for v in values]
        return np.concatenate([v.T if ours.endswith("kernel") else v for v in values], axis=-1)

    def tree(self, kind: str):
        flat = {tuple(ours.split("/")): self.theirs(kind, ours) for ours in self.names}
        return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))

    def fresh(self):
        """What the fusion of LIRDRec keeps before the first epoch."""
        if self.method is CM3:
            return {}
        own = self.params["own"]
        return {"fusion": {"epoch": jnp.int32(0), "copied": jnp.zeros_like(own), "weight": own}}

    def refreshed(self, params, kept):
        return self.model.apply({"params": params, **kept}, self.ctx, method="refresh")


def _check(pairs) -> None:
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    print(f"\n{difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@functools.cache  # for its compiled step
def _side(method) -> Side:
    return Side(method)


@pytest.fixture(params=[CM3, LIRDRec])
def side(request) -> Side:
    return _side(request.param)


def test_parameters_are_the_authors(side):
    init = lambda: side.model.init(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)},
        side.batch,
        side.ctx,
        method="loss",
    )
    variables = jax.eval_shape(init)
    shapes = traverse_util.flatten_dict(variables["params"], sep="/")
    assert {k: v.shape for k, v in shapes.items()} == {
        ours: side.theirs("param", ours).shape for ours in side.names
    }
    recorded = {k.removeprefix("param/") for k in side.recorded if k.startswith("param/")}
    assert recorded == set(jax.tree.leaves(list(side.names.values())))
    kept = {name: value for name, value in variables.items() if name != "params"}
    same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype
    assert jax.tree.all(jax.tree.map(same, kept, side.fresh()))


def test_agrees_with_the_authors_code(side):
    """CM3: enoche/CM3 ab054bb; LIRDRec: enoche/LIRDRec ff7239c, first epoch."""
    r, kept = side.recorded, side.fresh()
    loss, parts, grads, rep, _ = side.step(side.params, side.refreshed(side.params, kept), kept)
    # The padding of weight 0 is ours alone.
    pairs = {"loss": (loss, r["loss"])}
    assert set(parts) == {n.removeprefix("loss/") for n in r if n.startswith("loss/")}
    pairs |= {f"part {n}": (value, r[f"loss/{n}"]) for n, value in parts.items()}
    pairs["score"] = (rep["user"] @ rep["item"].T, r["score"])
    scaled = _unit if side.method is CM3 else np.asarray
    pairs |= {f"rep {n}": (scaled(rep[n]), r[f"rep/{n}"]) for n in ("user", "item")}
    if side.method is CM3:
        pairs["shared"] = (rep["shared"], r["rep/shared"])
    else:
        pairs["weight"] = (rep["channel_weight"], r["attention"])
    for path, value in traverse_util.flatten_dict(grads, sep="/").items():
        pairs[f"gradient of {path}"] = (value, side.theirs("grad", path))
    _check(pairs)


def test_lirdrec_copies_weights_as_the_authors_code():
    """Three epochs of two steps of gradient descent with momentum, which outlives the copying."""
    side = _side(LIRDRec)
    r, params, kept = side.recorded, side.params, side.fresh()
    optimizer = optax.sgd(0.5, momentum=0.9)
    state, seen = optimizer.init(params), []
    refresh = jax.jit(side.refreshed)
    update = jax.jit(optimizer.update)
    for _ in range(3):
        ctx = refresh(params, kept)
        for _ in range(2):
            loss, _, grads, _, kept = side.step(params, ctx, kept)
            updates, state = update(grads, state)
            params = optax.apply_updates(params, updates)
            seen.append(loss)
    assert kept["fusion"]["epoch"] == 3
    # Evaluation has the context without what the epoch added to it: it reads what was kept.
    rep = side.model.apply({"params": params, **kept}, side.ctx, method="represent")
    pairs = {"loss": (np.array(seen), r["later/loss"])}
    pairs |= {n: (rep[n], r[f"later/rep/{n}"]) for n in ("user", "item")}
    pairs["weight"] = (rep["channel_weight"], r["later/attention"])
    _check(pairs)


@pytest.mark.parametrize("method", [CM3, LIRDRec])
def test_features_are_asked_for(method):
    with pytest.raises(UserError, match="tiny: .* needs item features"):
        method.context(made.circle(()))


@pytest.mark.parametrize("method", [CM3, LIRDRec])
@pytest.mark.parametrize("names", [("audio",), ("image", "text", "audio")])
def test_any_number_of_modalities_with_missing_rows(method, names):
    # Items 2 and 5 show nothing, nobody has 5, item 4 lacks one modality.
    data = made.circle(names, [(n, i) for n in names for i in (2, 5)] + [(names[0], 4)], sold=5)
    hyper = {"dim": 8, "layers": 1, "knn_k": 2}
    model, ctx = method(data.spec, **hyper), method.context(data, **hyper)
    ids = (jnp.array(x, jnp.int32) for x in ([0, 1, 2], [0, 1, 5], [2, 4, 4]))
    batch = Batch(*ids, jnp.ones(3))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    @jax.jit
    def run(ctx):
        variables = model.init(keys, batch, ctx, method="loss")
        rest = {k: v for k, v in variables.items() if k != "params"}
        loss = lambda p: model.apply(
            {"params": p, **rest}, batch, ctx, method="loss", rngs={"dropout": keys["dropout"]}
        )[0]
        value, grads = jax.value_and_grad(loss)(variables["params"])
        if method is LIRDRec:  # nothing is copied at the start of the first epoch
            begun = model.apply(variables, ctx, method="refresh").tables["copied"]
            value += jnp.where(begun == 0, 0.0, jnp.nan).sum()
        rep = model.apply(variables, ctx, method="represent")
        return value, grads, rep, model.apply(variables, rep, ctx, method="explain")

    loss, grads, rep, shown = run(ctx)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    weight = shown["user_channel_weight"]
    assert weight.shape == (len(names) + 1,)
    np.testing.assert_allclose(weight.sum(), 1.0, rtol=1e-5)
    item = rep["item"].reshape(6, len(names) + 1, -1)
    assert not item[5].any()  # neither content nor users
    assert item[2].any()  # its users tell of it
    # What stands in a missing row changes nothing.
    noise = {n: f.at[2].set(100.0) for n, f in ctx.features.items()}
    tables = {n: x.at[2].set(-50.0) for n, x in ctx.tables.items()}
    other = run(ctx.replace(features=noise, tables=tables))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        other,
        (loss, grads, rep, shown),
    )
    if len(names) > 1:  # item 4 still has its part of what the other modalities share
        words = {n: x.at[4].set(9.0) if n.endswith("text") else x for n, x in ctx.tables.items()}
        seen = ctx.features | {"text": ctx.features["text"].at[4].set(9.0)}
        moved = run(ctx.replace(features=seen, tables=words))[2]["item"].reshape(item.shape)
        assert not np.allclose(moved[4, -1], item[4, -1], rtol=1e-3)
    # Nor does it choose neighbours.
    raw = {n: f.copy() for n, f in data.features.items()}
    for name in names:
        raw[name][2] = 100.0
    rebuilt = method.context(dataclasses.replace(data, features=raw), **hyper)
    for ours, theirs in zip(
        jax.tree.leaves(ctx.graphs), jax.tree.leaves(rebuilt.graphs), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_cm3_draws_places_anew_and_evaluates_in_the_middle():
    side = _side(CM3)
    seen = {}

    class Spy(CM3):
        def loss_at(self, mix, batch, ctx):
            seen["mix"] = mix
            return jnp.float32(0), {}

        def propagate(self, ctx, mix):
            return mix, mix, mix

    spy = Spy(
        **{
            f.name: getattr(side.model, f.name)
            for f in dataclasses.fields(CM3)
            if f.name not in ("parent", "name")
        }
    )
    draw = []
    for key in range(60):
        rngs = {"dropout": jax.random.key(key)}
        spy.apply({"params": side.params}, side.batch, side.ctx, method="loss", rngs=rngs)
        draw.append(seen["mix"])
    draw = np.stack(draw)  # 1,200 draws
    assert draw.shape == (60, 20)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    np.testing.assert_allclose(draw.mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(draw.var(), 1 / (4 * (2 * side.model.concentration + 1)), rtol=0.1)
    rep = spy.apply({"params": side.params}, side.ctx, method="represent")
    np.testing.assert_array_equal(rep["item"], np.full(20, 0.5))


def test_slerp_by_hand():
    first = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    second = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.6, 0.8]])
    place = jnp.array([0.0, 1 / 3, 1.0, 0.7])
    half = 3**0.5 / 2
    expected = [[1.0, 0.0], [half, 0.5], [0.0, 1.0], [0.6, 0.8]]
    np.testing.assert_allclose(sphere.slerp(first, second, place), expected, atol=1e-6)
    grad = jax.grad(lambda a: sphere.slerp(a, second, place).sum())(first)
    assert np.isfinite(grad).all()


def test_bezier_by_hand():
    # On the circle, angles add up: of 0, 90 and 60 degrees at the middle 45 and 75, so 60.
    at = lambda *degrees: jnp.stack(
        [jnp.cos(jnp.deg2rad(jnp.array(degrees))), jnp.sin(jnp.deg2rad(jnp.array(degrees)))], 1
    )
    points = [at(0.0, 0.0, 0.0, 0.0), at(90.0, 90.0, 90.0, 90.0), at(60.0, 60.0, 60.0, 60.0)]
    there = [
        jnp.array([True, True, False, False]),
        jnp.array([True, False, True, False]),
        jnp.array([True, True, False, False]),
    ]
    points = [jnp.where(has[:, None], x, 0.0) for x, has in zip(points, there, strict=True)]
    got = sphere.bezier(points, there, jnp.full(4, 0.5))
    np.testing.assert_allclose(got[:3], at(60.0, 30.0, 90.0), atol=1e-6)
    np.testing.assert_array_equal(got[3], [0.0, 0.0])


def test_cosine_transform_by_hand():
    x = jnp.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    expected = [[6 / 3**0.5, -(2**0.5), 0.0], [3**0.5, 0.0, 0.0]]
    np.testing.assert_allclose(spectral.dct(x), expected, atol=1e-6)
    basis = spectral.dct(jnp.eye(5))
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-6)
