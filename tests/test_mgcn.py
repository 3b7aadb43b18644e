"""MGCN, MambaRec and LATTICE against the authors' code, and what ours adds to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util

from mmrec_jax.models.multimodal.lattice import Lattice
from mmrec_jax.models.multimodal.mambarec import MambaRec
from mmrec_jax.models.multimodal.mgcn import MGCN
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Query, Recommender, UserError

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
SIDES = {"image": "v", "text": "t"}
IDS = {"user": "user_embedding.weight", "item": "item_id_embedding.weight"}
FEATURES = {f"content_{n}/features": f"{n}_embedding.weight" for n in SIDES}


def _dense(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}/kernel": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}


TRANSFORM = {k: v for n in SIDES for k, v in _dense(f"content_{n}/project", f"{n}_trs").items()}
VIEWS = {
    **_dense("fuse/Dense_0", "query_common.0"),
    "fuse/Dense_1/kernel": "query_common.2.weight",
    **{
        k: v
        for n, s in SIDES.items()
        for k, v in _dense(f"purify_{n}/Dense_0", f"gate_{s}.0").items()
    },
    **{
        k: v
        for n in SIDES
        for k, v in _dense(f"fuse/gate_{n}/Dense_0", f"gate_{n}_prefer.0").items()
    },
}
BRANCHES = ("branch1.0", "branch2.0", "branch3.0", "branch4.0", "branch5_conv")
NORMS = ("branch1.1", "branch2.1", "branch3.1", "branch4.1", "branch5_bn")


def _dream(name: str) -> dict[str, str | tuple[str, ...]]:
    """Several names: side by side in ours."""
    many = lambda names, kind: tuple(f"dream_{name}.{n}.{kind}" for n in names)
    return {
        f"dream_{name}/branches": many(BRANCHES, "weight"),
        f"dream_{name}/branch_norm/scale": many(NORMS, "weight"),
        f"dream_{name}/branch_norm/bias": many(NORMS, "bias"),
        f"dream_{name}/channel/kernel": f"dream_{name}.fusion.channel.fc.weight",
        f"dream_{name}/spatial/kernel": f"dream_{name}.fusion.spatial.Conv1x1.weight",
        f"dream_{name}/merge/kernel": f"dream_{name}.conv_cat.0.weight",
        f"dream_{name}/merge_norm/scale": f"dream_{name}.conv_cat.1.weight",
        f"dream_{name}/merge_norm/bias": f"dream_{name}.conv_cat.1.bias",
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """How one method's names translate; kernels are transposed."""

    model: type[Recommender]
    hyper: dict[str, str]
    params: dict[str, str | tuple[str, ...]]
    parts: tuple[str, ...]
    fixed: dict[str, object] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()  # the authors' parameters that cancel


COMMON = {"item_layers": "n_layers", "knn_k": "knn_k", "reg_weight": "reg_weight"}
CONTRAST = {"layers": "n_ui_layers", "contrast_weight": "cl_loss"}
CASES = {
    "mgcn": Case(
        MGCN, COMMON | CONTRAST, IDS | FEATURES | TRANSFORM | VIEWS, ("bpr", "reg", "contrast")
    ),
    "mambarec": Case(
        MambaRec,
        COMMON
        | CONTRAST
        | {
            "mmd_weight": "mmd_weight",
            "bandwidth": "mmd_kernel_bandwidth",
            "reduction": "reduction_factor",
        },
        IDS
        | FEATURES
        | VIEWS
        | _dream("image")
        | _dream("text")
        | {
            "content_image/narrow": "image_reduce.weight",
            "content_image/kernel": "image_trs.weight",
            "content_text/kernel": "text_trs.weight",
            "norm/scale": "norm.weight",
            "norm/bias": "norm.bias",
        },
        ("bpr", "reg", "contrast", "mmd_image_text"),
        {"dropout": 0.0},
        (
            *("image_reduce.bias", "image_trs.bias", "text_trs.bias"),
            *(f"dream_{n}.{b}.bias" for n in SIDES for b in (*BRANCHES, "conv_cat.0")),
        ),
    ),
    "lattice": Case(
        Lattice,
        COMMON | {"original_weight": "lambda_coeff", "feature_dim": "feat_embed_dim"},
        IDS | FEATURES | TRANSFORM | {"modality_weight": "modal_weight"},
        ("bpr", "reg"),
        {"layers": 2},
    ),
}


class Side:
    """Our half of one case, with the recorded weights in place."""

    def __init__(self, name: str):
        self.case = case = CASES[name]
        with np.load(FIXTURES / f"{name}.npz") as file:
            self.recorded = r = dict(file)
        hyper = {ours: r[f"hyper/{theirs}"].item() for ours, theirs in case.hyper.items()}
        hyper |= case.fixed
        features = {n: r[f"features/{n}"] for n in SIDES}
        data = made.dataset(
            r["edge_user"], r["edge_item"], r["num_users"], r["num_items"], features
        )
        self.model = case.model(data.spec, dim=int(r["dim"]), **hyper)
        self.ctx = case.model.context(data, **hyper)
        ids = (r[f"batch_{n}"] for n in ("user", "item", "negative"))
        user, item, negative = map(jnp.asarray, ids)
        self.batch = Batch(user, item, negative, jnp.ones(user.shape))
        self.params = self.recorded_tree("param")

    def theirs(self, kind: str, ours: str) -> np.ndarray:
        names = self.case.params[ours]
        values = [
            self.recorded[f"{kind}/{n}"] for n in ((names,) if isinstance(names, str) else names)
        ]
        # Of a 3 x 3 convolution over one pixel only the middle tap counts.
        values = [v[:, :, v.shape[2] // 2, v.shape[3] // 2] if v.ndim == 4 else v for v in values]
        turn = ours.split("/")[-1] in ("kernel", "narrow", "branches")
        return np.concatenate([v.T if turn else v for v in values], axis=-1)

    def recorded_tree(self, kind: str):
        flat = {tuple(ours.split("/")): self.theirs(kind, ours) for ours in self.case.params}
        return jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))

    def loss(self, params, batch, ctx=None, **collections):
        variables = {"params": params, **collections}
        ctx = self.ctx if ctx is None else ctx
        return self.model.apply(variables, batch, ctx, method="loss")

    def compare(self, prefix: str, got, extra=()) -> dict[str, float]:
        (loss, parts), grads = got
        assert set(parts) == set(self.case.parts)
        recorded = self.recorded
        pairs = {"loss": (loss, recorded[f"{prefix}loss"]), **dict(extra)}
        pairs |= {f"part {n}": (parts[n], recorded[f"{prefix}loss/{n}"]) for n in parts}
        for path, value in traverse_util.flatten_dict(grads, sep="/").items():
            pairs[f"gradient of {path}"] = (value, self.theirs(f"{prefix}grad", path))
        return {what: made.difference(*pair) for what, pair in pairs.items()}


def _query(users: int) -> Query:
    empty, pad = jnp.zeros((users, 0), jnp.int32), jnp.zeros(0, jnp.int32)
    everyone = jnp.arange(users, dtype=jnp.int32)
    return Query(everyone, everyone >= 0, empty, pad, pad, pad, pad, empty)


@pytest.fixture(scope="module", params=CASES)
def side(request) -> Side:
    return Side(request.param)


def test_parameters_are_the_authors(side):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = lambda: side.model.init(keys, side.batch, side.ctx, method="loss")
    params = jax.eval_shape(init)["params"]
    shapes = {"/".join(k): v.shape for k, v in traverse_util.flatten_dict(params).items()}
    assert shapes == {ours: side.theirs("param", ours).shape for ours in side.case.params}
    taken = jax.tree.leaves(list(side.case.params.values()))
    recorded = {k.removeprefix("param/") for k in side.recorded if k.startswith("param/")}
    assert recorded == {*taken, *side.case.without}
    assert all(np.abs(side.recorded[f"grad/{name}"]).max() < 1e-7 for name in side.case.without)


def test_agrees_with_the_authors_code(side, record_property):
    """MMRec e775373 (MGCN, LATTICE), rkl71/MambaRec fe58c6e; LATTICE in an epoch's first batch."""
    represent = jax.jit(lambda p, ctx: side.model.apply({"params": p}, ctx, method="represent"))
    rep = represent(side.params, side.ctx)
    score = side.model.apply(
        {"params": side.params}, rep, _query(side.model.spec.num_users), method="score"
    )
    got = jax.jit(jax.value_and_grad(side.loss, has_aux=True))(side.params, side.batch)
    r = side.recorded
    extra = {f"rep {n}": (rep[n], r[f"rep/{n}"]) for n in ("user", "item")}
    extra["score"] = (score, r["score"])
    difference = side.compare("", got, extra)
    worst = max(difference, key=difference.__getitem__)
    record_property("largest_relative_difference", difference[worst])
    print(f"\n{type(side.model).__name__}: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference


def test_lattice_keeps_the_graph_for_the_rest_of_the_epoch(record_property):
    side = Side("lattice")
    refresh = jax.jit(lambda p: side.model.apply({"params": p}, side.ctx, method="refresh"))
    ctx = refresh(side.params)
    later = side.recorded_tree("later/param")
    steps = {"done": jnp.int32(1)}
    grad = jax.jit(jax.value_and_grad(side.loss, has_aux=True))
    difference = side.compare("later/", grad(later, side.batch, ctx, steps=steps))
    worst = max(difference, key=difference.__getitem__)
    print(f"\nLATTICE, later batch: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference
    # In the epoch's first batch the same context gives the gradients of the built graph.
    first = grad(side.params, side.batch, ctx, steps={"done": jnp.int32(0)})
    assert max(side.compare("", first).values()) < TOLERANCE


def test_lattice_counts_batches():
    side = Side("lattice")
    run = lambda method, *args, **rest: side.model.apply(*args, method=method, **rest)
    state = jax.jit(
        lambda: side.model.init(jax.random.key(0), side.batch, side.ctx, method="loss")
    )()
    assert state["steps"]["done"] == 0
    step = jax.jit(lambda state: run("loss", state, side.batch, side.ctx, mutable=["steps"])[1])
    for count in (1, 2):
        changed = step(state)
        state = {**state, **changed}
        assert state["steps"]["done"] == count
    ctx = jax.jit(lambda state: run("refresh", state, side.ctx))(state)
    assert ctx.tables["begun"] == 2


def test_padding_changes_nothing(side):
    longer = jax.tree.map(lambda x: jnp.concatenate([x, x[:5]]), side.batch)
    longer = longer.replace(weight=longer.weight.at[-5:].set(0.0))
    grad = jax.jit(jax.grad(side.loss, has_aux=True))
    plain, padded = grad(side.params, side.batch), grad(side.params, longer)
    difference = jax.tree.map(made.difference, padded, plain)
    assert max(jax.tree.leaves(difference)) < TOLERANCE


HYPER = {"dim": 8, "knn_k": 3, "finetune_features": False}


def _run(method, data, params=None, **hyper):
    """Parameters, loss with its parts, and representations."""
    hyper = HYPER | hyper | ({"dropout": 0.0} if method is MambaRec else {})
    model, ctx = method(data.spec, **hyper), method.context(data, **hyper)
    ids = (jnp.array(x, jnp.int32) for x in ([0, 1, 2], [0, 1, 5], [2, 4, 4]))
    batch = Batch(*ids, jnp.ones(3))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    if params is None:
        init = jax.jit(lambda ctx: model.init(keys, batch, ctx, method="loss"))
        params = init(ctx)["params"]

    @jax.jit
    def both(params, ctx):
        run = lambda *args, method: model.apply({"params": params}, *args, method=method)
        return run(batch, ctx, method="loss"), run(ctx, method="represent")

    (loss, parts), rep = both(params, ctx)
    return params, loss, parts, rep, ctx, model


@pytest.mark.parametrize("method", [MGCN, MambaRec, Lattice])
def test_features_are_asked_for(method):
    with pytest.raises(UserError, match="tiny: .* needs item features"):
        method.context(made.circle(()))


@pytest.mark.parametrize("method", [MGCN, MambaRec, Lattice])
@pytest.mark.parametrize("names", [("audio",), ("image", "text", "audio")])
def test_any_number_of_modalities_with_missing_rows(method, names):
    data = made.circle(names, [(n, 2) for n in names] + [(names[0], 4)])
    params, loss, _, rep, ctx, model = _run(method, data)
    assert np.isfinite(loss)
    shown = model.apply({"params": params}, rep, ctx, method="explain")
    assert all(x.shape == (len(names),) and np.isfinite(x).all() for x in shown.values())
    # An item that shows nothing has its place in the user-item graph alone.
    bare = {"user": params["user"], "item": params["item"]}
    nodes = graph.mean_propagate(
        ctx.graphs["train"], jnp.concatenate([*bare.values()]), model.layers
    )
    np.testing.assert_allclose(rep["item"][2], nodes[5 + 2], rtol=1e-5, atol=1e-6)
    # What stands in a missing row changes nothing.
    noise = {n: f.copy() for n, f in data.features.items()}
    for name in names:
        noise[name][2] = 100.0
    other = _run(method, dataclasses.replace(data, features=noise), params)
    for ours, theirs in ((rep, other[3]), (loss, other[1])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_one_modality_is_not_fused():
    params, _, _, rep, ctx, model = _run(MGCN, made.circle(("text",)))
    assert "fuse" not in params
    gate = jax.nn.sigmoid(
        (
            ctx.features["text"] @ params["content_text"]["project"]["kernel"]
            + params["content_text"]["project"]["bias"][None]
        )
        @ params["purify_text"]["Dense_0"]["kernel"]
        + params["purify_text"]["Dense_0"]["bias"][None]
    )
    view = graph.matmul(ctx.graphs["text"], gate * params["item"])
    nodes = jnp.concatenate([params["user"], params["item"]])
    behaviour = graph.mean_propagate(ctx.graphs["train"], nodes, 2)
    np.testing.assert_allclose(rep["item"], behaviour[5:] + view, rtol=1e-5)


def test_discrepancies_are_of_all_pairs_between_items_that_have_both():
    names = ("image", "text", "audio")
    params, loss, parts, *_ = _run(MambaRec, made.circle(names), mmd_weight=2.0)
    pairs = ("mmd_image_text", "mmd_image_audio", "mmd_text_audio")
    assert {n for n in parts if n.startswith("mmd")} == set(pairs)
    rest = parts["bpr"] + 1e-4 * parts["reg"] + 0.01 * parts["contrast"]
    np.testing.assert_allclose(loss - rest, 2.0 * sum(parts[n] for n in pairs), rtol=1e-4)
    # Items 0, 1 and 5 are in the batch; with text of none of them only image meets audio.
    gap = _run(MambaRec, made.circle(names, [("text", i) for i in (0, 1, 5)]), params)[2]
    assert gap["mmd_image_text"] == gap["mmd_text_audio"] == 0.0
    np.testing.assert_allclose(gap["mmd_image_audio"], parts["mmd_image_audio"], rtol=1e-5)


def test_dropout_of_mambarec_is_for_training_only():
    data = made.circle(("image", "text"))
    params, _, _, rep, ctx, _ = _run(MambaRec, data)
    model = MambaRec(data.spec, **HYPER, dropout=0.5)
    again = model.apply({"params": params}, ctx, method="represent")
    np.testing.assert_allclose(again["item"], rep["item"], rtol=1e-5, atol=1e-6)
    batch = Batch(*(jnp.array([0, 1], jnp.int32),) * 3, jnp.ones(2))
    two = [
        model.apply(
            {"params": params}, batch, ctx, method="loss", rngs={"dropout": jax.random.key(k)}
        )[1]
        for k in (0, 1)
    ]
    assert two[0]["contrast"] != two[1]["contrast"]
    assert two[0]["mmd_image_text"] == two[1]["mmd_image_text"]


def test_mambarec_begins_as_pytorch():
    data = made.circle(("image",))
    model, ctx = MambaRec(data.spec, dim=64), MambaRec.context(data)
    batch = Batch(*(jnp.array([0, 1], jnp.int32),) * 3, jnp.ones(2))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.jit(lambda: model.init(keys, batch, ctx, method="loss"))()["params"]
    blocks = np.split(np.asarray(params["dream_image"]["branches"]), 5, axis=1)
    for block, taps in zip(blocks, (1, 9, 9, 9, 1), strict=True):
        bound = (64 * taps) ** -0.5
        assert 0.99 * bound < np.abs(block).max() <= bound


def test_the_learned_graph_of_lattice_is_that_of_a_dense_one():
    """Restates the authors' I x I arithmetic."""
    side = Side("lattice")
    params, r, K = side.params, side.recorded, 4
    share = np.exp(params["modality_weight"])
    share = share / share.sum()
    learned = 0
    for number, name in enumerate(("image", "text")):
        dense = params[f"content_{name}"]["project"]
        x = np.asarray(r[f"features/{name}"] @ dense["kernel"] + dense["bias"][None])
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        near = x @ x.T
        cut = np.sort(near, axis=1)[:, -K][:, None]
        learned = learned + share[number] * np.where(near >= cut, near, 0.0)
    root = learned.sum(1) ** -0.5
    learned = root[:, None] * learned * root[None]
    given = sum(
        share[m] * graph.matmul(side.ctx.graphs[n], jnp.eye(20)) for m, n in enumerate(SIDES)
    )
    expected = 0.1 * learned + 0.9 * np.asarray(given)
    np.testing.assert_allclose(expected, r["item_graph"], atol=1e-6)


@pytest.mark.parametrize("method", [MGCN, MambaRec])
def test_a_missing_row_gives_no_view_without_item_graphs_either(method):
    data = made.circle(("image", "text"), [("image", 2), ("text", 2)])
    params, _, _, rep, ctx, model = _run(method, data, item_layers=0)
    nodes = jnp.concatenate([params["user"], params["item"]])
    nodes = graph.mean_propagate(ctx.graphs["train"], nodes, model.layers)
    np.testing.assert_allclose(rep["item"][2], nodes[5 + 2], rtol=1e-5, atol=1e-6)


def test_users_see_nothing_of_an_item_in_the_view_that_it_lacks():
    # Without item graphs users gather the gated items themselves.
    params, _, _, _, ctx, model = _run(
        MGCN, made.circle(["image", "text"], [("image", 1)]), item_layers=0
    )
    changed = {**params, "item": params["item"].at[1].add(5.0)}
    views = [model.apply({"params": p}, ctx, method="_views")[1] for p in (params, changed)]
    np.testing.assert_array_equal(views[0]["image"], views[1]["image"])
    assert np.abs(views[0]["text"] - views[1]["text"])[:5].max() > 0.1
