"""Our methods against numbers recorded from the authors' public code; see docs/parity.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util

from mmrec_jax.models.baseline.mf import MF
from mmrec_jax.models.graph.lightgcn import LightGCN
from mmrec_jax.models.multimodal.bm3 import BM3
from mmrec_jax.models.multimodal.freedom import Freedom
from mmrec_jax.models.multimodal.vbpr import VBPR
from mmrec_jax.ops import graph
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Dataset, Query, Recommender

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 5e-6  # of the largest entry; both sides compute in float32


@dataclasses.dataclass(frozen=True)
class Case:
    """How one method's names translate; names ending in "kernel" are transposed."""

    model: type[Recommender]
    hyper: dict[str, str]  # field: the authors' name
    params: dict[str, str]  # ours, joined by "/": the authors' name
    parts: dict[str, str]  # logged part of the loss: recorded name
    fixed: dict[str, object] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()  # the authors' parameters that we have no use for


def _content(*layers: str) -> dict[str, str]:
    names = {
        "features": "embedding.weight",
        "project/kernel": "trs.weight",
        "project/bias": "trs.bias",
    }
    return {
        f"content_{ours}/{name}": f"{ours}_{names[name]}"
        for ours in ("text", "image")
        for name in layers
    }


CASES = {
    "mf": Case(
        MF,
        {"reg_weight": "reg_weight"},
        {"user": "user_embedding.weight", "item": "item_embedding.weight"},
        {"bpr": "bpr", "reg": "norm"},
    ),
    "lightgcn": Case(
        LightGCN,
        {"reg_weight": "reg_weight", "layers": "n_layers"},
        {"user": "embedding_dict.user_emb", "item": "embedding_dict.item_emb"},
        {"bpr": "bpr", "reg": "norm"},
    ),
    "vbpr": Case(
        VBPR,
        {"reg_weight": "reg_weight"},
        {
            "user": "u_embedding",
            "item": "i_embedding",
            "project/kernel": "item_linear.weight",
            "project/bias": "item_linear.bias",
        },
        {"bpr": "bpr", "reg": "norm"},
    ),
    "bm3": Case(
        BM3,
        {
            "reg_weight": "reg_weight",
            "layers": "n_layers",
            "content_weight": "cl_weight",
            "dropout": "dropout",
        },
        {
            "user": "user_embedding.weight",
            "item": "item_id_embedding.weight",
            "predictor/kernel": "predictor.weight",
            "predictor/bias": "predictor.bias",
            **_content("features", "project/kernel", "project/bias"),
        },
        {"reg": "norm"}
        | {n: n for n in ("user_item", "item_user", "text_item", "image_item")}
        | {n: n for n in ("text_text", "image_image")},
    ),
    "freedom": Case(
        Freedom,
        {
            "reg_weight": "reg_weight",
            "layers": "n_ui_layers",
            "item_layers": "n_mm_layers",
            "knn_k": "knn_k",
            "dropout": "dropout",
        },
        {
            "user": "user_embedding.weight",
            "item": "item_id_embedding.weight",
            **_content("features", "project/kernel"),
        },
        {"bpr": "bpr", "text": "text", "image": "image"},
        {"modality_weights": (("image", 0.1), ("text", 0.9))},
        ("text_trs.bias", "image_trs.bias"),  # they cancel in the loss
    ),
}


class Side:
    """Our half of one case, with the recorded weights in place."""

    def __init__(self, name: str):
        self.case = case = CASES[name]
        with np.load(FIXTURES / f"{name}.npz") as file:
            self.recorded = dict(file)
        data = _dataset(self.recorded)
        hyper = {ours: self.recorded[f"hyper/{n}"].item() for ours, n in case.hyper.items()}
        hyper |= case.fixed
        self.model = case.model(data.spec, dim=8, **hyper)
        self.ctx = case.model.context(data, **hyper)
        flat = {tuple(ours.split("/")): self.theirs("param", ours) for ours in case.params}
        self.params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))
        if "keep" in self.recorded:
            keep = jnp.asarray(self.recorded["keep"], jnp.float32)
            self.ctx = self.apply(self.ctx, keep, method="prune")
        ids = (self.recorded[f"batch_{n}"] for n in ("user", "item", "negative"))
        user, item, negative = map(jnp.asarray, ids)
        self.batch = Batch(user, item, negative, jnp.ones(user.shape))

    def theirs(self, kind: str, ours: str) -> np.ndarray:
        value = self.recorded[f"{kind}/{self.case.params[ours]}"]
        return value.T if ours.endswith("kernel") else value

    def apply(self, *args, params=None, method):
        variables = {"params": self.params if params is None else params}
        return self.model.apply(
            variables, *args, method=method, rngs={"dropout": jax.random.key(0)}
        )

    def loss(self, params, batch):
        return self.apply(batch, self.ctx, params=params, method="loss")


@pytest.fixture(scope="module", params=CASES)
def side(request) -> Side:
    return Side(request.param)


def test_parameters_are_the_authors(side):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = side.model.init(keys, side.batch, side.ctx, method="loss")["params"]
    shapes = {"/".join(k): v.shape for k, v in traverse_util.flatten_dict(params).items()}
    assert shapes == {ours: side.theirs("param", ours).shape for ours in side.case.params}
    recorded = {k.removeprefix("param/") for k in side.recorded if k.startswith("param/")}
    assert recorded == {*side.case.params.values(), *side.case.without}
    assert all(np.abs(side.recorded[f"grad/{name}"]).max() < 1e-8 for name in side.case.without)


def test_agrees_with_the_authors_code(side, record_property):
    rep = side.apply(side.ctx, method="represent")
    score = side.apply(rep, _query(side.model.spec.num_users), method="score")
    grad = jax.value_and_grad(side.loss, has_aux=True)
    (loss, parts), grads = jax.jit(grad)(side.params, side.batch)

    recorded = side.recorded
    pairs = {f"rep {n}": (rep[n], recorded[f"rep/{n}"]) for n in ("user", "item")}
    pairs |= {"score": (score, recorded["score"]), "loss": (loss, recorded["loss"])}
    pairs |= {f"part {o}": (parts[o], recorded[f"loss/{n}"]) for o, n in side.case.parts.items()}
    for path, value in traverse_util.flatten_dict(grads, sep="/").items():
        pairs[f"gradient of {path}"] = (value, side.theirs("grad", path))
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}

    worst = max(difference, key=difference.__getitem__)
    record_property("largest_relative_difference", difference[worst])
    print(f"\n{side.model.__class__.__name__}: {difference[worst]:.1e} ({worst})")
    assert set(parts) == set(side.case.parts)
    assert difference[worst] < TOLERANCE, difference


def test_padding_changes_nothing(side):
    longer = jax.tree.map(lambda x: jnp.concatenate([x, x[:5]]), side.batch)
    longer = longer.replace(weight=longer.weight.at[-5:].set(0.0))
    grad = jax.grad(side.loss, has_aux=True)
    plain, padded = grad(side.params, side.batch), grad(side.params, longer)
    difference = jax.tree.map(made.difference, padded, plain)
    assert max(jax.tree.leaves(difference)) < TOLERANCE


def test_lightgcn_graph():
    side = Side("lightgcn")
    assert made.difference(_dense(side.ctx.graphs["train"], 50), side.recorded["adjacency"]) < 1e-6


def test_freedom_graphs():
    side = Side("freedom")
    assert made.difference(_dense(side.ctx.graphs["item"], 20), side.recorded["item_graph"]) < 1e-6
    pruned, full = (_dense(side.ctx.graphs[name], 50) for name in ("train", "full"))
    assert made.difference(pruned, side.recorded["masked_adjacency"]) < 1e-6
    edges = (side.recorded["edge_user"], side.recorded["edge_item"] + 30)
    assert made.difference(full[edges], side.recorded["edge_weight"]) < 1e-6


def test_freedom_draws_edges_as_the_authors_do():
    with np.load(FIXTURES / "freedom_sampling.npz") as file:
        recorded = dict(file)
    data = _dataset(recorded)
    model = Freedom(data.spec, dim=1, dropout=recorded["dropout"].item())
    ctx = Freedom.context(dataclasses.replace(data, item_graphs=_identity(data.spec.num_items)))
    params = {"user": jnp.zeros((6, 1)), "item": jnp.zeros((8, 1))}
    edges = (recorded["edge_user"], recorded["edge_item"] + 6)

    @jax.jit
    def kept(key):
        drawn = model.apply({"params": params}, ctx, method="refresh", rngs={"dropout": key})
        return graph.matmul(drawn.graphs["train"], jnp.eye(14))[edges] > 0

    draws = 30_000
    keys = jax.random.split(jax.random.key(5), draws)
    masks = np.asarray(jax.lax.map(kept, keys, batch_size=1000))
    np.testing.assert_array_equal(masks.sum(1), recorded["kept"])
    # Five standard errors of our frequencies; theirs are of a million draws.
    error = 5 * np.sqrt(recorded["frequency"] * (1 - recorded["frequency"]) / draws)
    assert (np.abs(masks.mean(0) - recorded["frequency"]) < error).all()


def _dataset(recorded: dict[str, np.ndarray]) -> Dataset:
    users, items = recorded["num_users"].item(), recorded["num_items"].item()
    # Text first: MMRec's VBPR concatenates in this order.
    names = [n for n in ("text", "image") if f"features/{n}" in recorded]
    features = {n: recorded[f"features/{n}"] for n in names}
    return made.dataset(recorded["edge_user"], recorded["edge_item"], users, items, features)


def _identity(size: int) -> dict:
    return {"self": (np.arange(size), np.arange(size), np.ones(size))}


def _query(users: int) -> Query:
    none = jnp.zeros(0, jnp.int32)
    return Query(
        user=jnp.arange(users),
        valid=jnp.ones(users, bool),
        target=jnp.full((users, 1), -1),
        history_row=none,
        history_item=none,
        masked_row=none,
        masked_item=none,
        sequence=jnp.zeros((users, 0), jnp.int32),
    )


def _dense(adj: graph.Adjacency, size: int) -> np.ndarray:
    return np.asarray(graph.matmul(adj, jnp.eye(size)))
