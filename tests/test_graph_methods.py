"""LayerGCN, SimGCL and NGCF against numbers recorded from their authors' code, and by hand.

The codes are enoche/MMRec at e775373 (LayerGCN), Coder-Yu/SELFRec at 5b02294 (SimGCL) and
xiangwang1223/neural_graph_collaborative_filtering at a718a4f (NGCF); see docs/parity.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util

from mmrec_jax import losses
from mmrec_jax.models.graph.layergcn import LayerGCN
from mmrec_jax.models.graph.ngcf import NGCF
from mmrec_jax.models.graph.simgcl import SimGCL
from mmrec_jax.ops import graph, prune
from mmrec_jax.tasks.pairwise import Batch
from mmrec_jax.types import Recommender, UserError

FIXTURES = Path(__file__).parent / "fixtures"


@dataclasses.dataclass(frozen=True)
class Case:
    """How one method's names translate; ``theirs`` names a parameter of ours."""

    model: type[Recommender]
    hyper: dict[str, str]  # field: the authors' name
    theirs: dict[str, str]
    parts: dict[str, str]  # part of our loss: recorded name
    tolerance: float = 5e-6  # of the largest entry; both sides compute in float32


CASES = {
    "layergcn": Case(
        LayerGCN,
        {"layers": "n_layers", "reg_weight": "reg_weight", "dropout": "dropout"},
        {"user": "user_embeddings", "item": "item_embeddings"},
        {"bpr": "bpr", "reg": "norm"},
    ),
    "simgcl": Case(
        SimGCL,
        {name: name for name in ("layers", "contrast_weight", "noise", "reg_weight")},
        {"user": "embedding_dict.user_emb", "item": "embedding_dict.item_emb"},
        {"bpr": "bpr", "reg": "norm", "user": "user", "item": "item"},
        5e-5,  # their logarithm has 1e-5 inside
    ),
    "ngcf": Case(
        NGCF,
        {"hidden": "hidden", "reg_weight": "reg_weight"},
        {"user": "user_embedding", "item": "item_embedding"}
        | {
            f"{ours}_{k}/{name}": f"{letter}_{theirs}_{k}"
            for ours, theirs in (("sum", "gc"), ("product", "bi"))
            for name, letter in (("kernel", "W"), ("bias", "b"))
            for k in range(2)
        },
        {"bpr": "bpr", "reg": "norm"},
    ),
}


class Side:
    """Our half of one case, with the recorded weights in place."""

    def __init__(self, name: str):
        self.case = case = CASES[name]
        with np.load(FIXTURES / f"{name}.npz") as file:
            self.recorded = recorded = dict(file)
        hyper = {ours: recorded[f"hyper/{n}"].tolist() for ours, n in case.hyper.items()}
        hyper = {k: tuple(v) if isinstance(v, list) else v for k, v in hyper.items()}
        self.data = made.dataset(recorded["edge_user"], recorded["edge_item"], 30, 20)
        dropout = {"dropout": 0.0} if name == "ngcf" else {}
        self.model = case.model(self.data.spec, dim=8, **{**hyper, **dropout})
        self.ctx = case.model.context(self.data, **hyper)
        flat = {tuple(ours.split("/")): self.of(f"param/{n}") for ours, n in case.theirs.items()}
        self.params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))
        if "keep" in recorded:
            keep = jnp.asarray(recorded["keep"], jnp.float32)
            self.ctx = self.apply(self.params, self.ctx, keep, method="prune")
        ids = (jnp.asarray(recorded[f"batch_{n}"]) for n in ("user", "item", "negative"))
        self.batch = Batch(*ids, jnp.ones(16))

    def of(self, name: str) -> np.ndarray:
        value = self.recorded[name]
        return value[0] if "/b_" in name else value  # the authors of NGCF keep biases as rows

    def apply(self, params, *args, method):
        rngs = {"dropout": jax.random.key(0)}
        return self.model.apply({"params": params}, *args, method=method, rngs=rngs)

    def loss(self, params, batch):
        if "draws" not in self.recorded:
            return self.apply(params, batch, self.ctx, method="loss")
        draws = [list(map(jnp.asarray, view)) for view in self.recorded["draws"]]
        return self.apply(params, batch, self.ctx, draws, method="perturbed_loss")


@pytest.fixture(scope="module", params=CASES)
def side(request) -> Side:
    return Side(request.param)


def test_agrees_with_the_authors_code(side):
    rep = side.apply(side.params, side.ctx, method="represent")
    grad = jax.jit(jax.value_and_grad(side.loss, has_aux=True))
    (loss, parts), grads = grad(side.params, side.batch)
    grads = traverse_util.flatten_dict(grads, sep="/")
    recorded, case = side.recorded, side.case
    pairs = {n: (rep[n], recorded[f"rep/{n}"]) for n in ("user", "item")}
    pairs |= {"score": (rep["user"] @ rep["item"].T, recorded["score"])}
    pairs |= {"loss": (loss, recorded["loss"])}
    pairs |= {f"part {o}": (parts[o], recorded[f"loss/{n}"]) for o, n in case.parts.items()}
    pairs |= {f"grad {k}": (grads[k], side.of(f"grad/{n}")) for k, n in case.theirs.items()}
    difference = {what: made.difference(*pair) for what, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    print(f"\n{case.model.__name__}: {difference[worst]:.1e} ({worst})")
    assert set(parts) == set(case.parts) and set(grads) == set(case.theirs)
    assert difference[worst] < case.tolerance, difference


def test_padding_changes_nothing(side):
    longer = jax.tree.map(lambda x: jnp.concatenate([x[-5:], x]), side.batch)
    longer = longer.replace(weight=longer.weight.at[:5].set(0.0))
    grad = jax.jit(jax.grad(side.loss, has_aux=True))
    (plain, parts), (padded, same) = grad(side.params, side.batch), grad(side.params, longer)
    difference = jax.tree.map(made.difference, (padded, same), (plain, parts))
    assert max(jax.tree.leaves(difference)) < 5e-6


def test_layergcn_prunes_as_recorded_and_scores_on_all_edges():
    side = Side("layergcn")
    pruned = graph.matmul(side.ctx.graphs["train"], jnp.eye(50))
    assert made.difference(pruned, side.recorded["masked_adjacency"]) < 1e-6
    whole = LayerGCN.context(side.data)
    assert int((np.asarray(pruned) > 0).sum()) == 200
    all_edges = graph.matmul(side.ctx.graphs["full"], jnp.eye(50))
    np.testing.assert_array_equal(all_edges, graph.matmul(whole.graphs["train"], jnp.eye(50)))


def test_layergcn_of_two_nodes_by_hand():
    """Users (1, 0) and (0, 2), items (3, 4) and (1, 0), edges u0-i0 and u1-i1 of weight 1."""
    data = made.dataset(np.int32([0, 1]), np.int32([0, 1]), 2, 2)
    model = LayerGCN(data.spec, dim=2, layers=2)
    params = {"user": jnp.float32([[1, 0], [0, 2]]), "item": jnp.float32([[3, 4], [1, 0]])}
    rep = model.apply({"params": params}, LayerGCN.context(data), method="represent")
    # u0: (3, 4) cos .6 with (1, 0) is (1.8, 2.4); i0: (1, 0) at cos .6 of (3, 4) is (.6, 0). Then
    # u0: (.6, 0), cos 1, and i0: (1.8, 2.4), cos 1. u1 and i1 are at right angles.
    np.testing.assert_allclose(rep["user"], [[2.4, 2.4], [0, 0]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rep["item"], [[2.4, 2.4], [0, 0]], rtol=1e-5, atol=1e-6)


def test_layergcn_draws_by_weight_and_evenly_in_turn():
    with np.load(FIXTURES / "freedom_sampling.npz") as file:
        recorded = dict(file)  # the same law in odd epochs
    data = made.dataset(recorded["edge_user"], recorded["edge_item"], 6, 8)
    model = LayerGCN(data.spec, dim=1, dropout=0.6)
    ctx = LayerGCN.context(data)
    params = {"user": jnp.ones((6, 1)), "item": jnp.ones((8, 1))}
    batch = Batch(*(jnp.zeros(1, jnp.int32),) * 3, jnp.ones(1))
    edges = (recorded["edge_user"], recorded["edge_item"] + 6)

    @jax.jit
    def two_epochs(key):
        variables, masks = {"params": params, "pruning": {"by_weight": jnp.array(False)}}, []
        for epoch in range(2):
            rngs = {"dropout": jax.random.fold_in(key, epoch)}
            fresh = model.apply(variables, ctx, method="refresh", rngs=rngs)
            masks.append(graph.matmul(fresh.graphs["train"], jnp.eye(14))[edges] > 0)
            _, changed = model.apply(variables, batch, fresh, method="loss", mutable=["pruning"])
            variables |= changed
        return jnp.stack(masks), variables["pruning"]["by_weight"]

    draws = 4_000
    keys = jax.random.split(jax.random.key(5), draws)
    masks, last = jax.lax.map(two_epochs, keys, batch_size=1000)
    masks = np.asarray(masks)
    assert not np.asarray(last).any()
    np.testing.assert_array_equal(masks.sum(-1), 4)
    for epoch, frequency in enumerate((recorded["frequency"], np.full(12, 1 / 3))):
        error = 5 * np.sqrt(frequency * (1 - frequency) / draws)
        assert (np.abs(masks[:, epoch].mean(0) - frequency) < error).all()


def test_layergcn_keeps_all_edges_without_dropout():
    data = made.dataset(np.int32([0, 1]), np.int32([0, 1]), 2, 2)
    ctx, model = LayerGCN.context(data), LayerGCN(data.spec, dim=1, dropout=0.0)
    params = {"user": jnp.ones((2, 1)), "item": jnp.ones((2, 1))}
    assert model.apply({"params": params}, ctx, method="refresh") is ctx


def test_edge_weights_by_hand():
    user, item = jnp.int32([0, 0, 1, 1]), jnp.int32([0, 1, 1, 2])
    whole = prune.edge_weights(user, item, 2, 3)
    np.testing.assert_allclose(whole, [2**-0.5, 0.5, 0.5, 2**-0.5], rtol=1e-6)
    part = prune.edge_weights(user, item, 2, 3, jnp.float32([1, 0, 1, 1]))
    np.testing.assert_allclose(part, [1, 0, 2**-0.5, 2**-0.5], rtol=1e-6)
    kept = prune.draw(jax.random.key(0), jnp.float32([0, -1e9, 0, -1e9, 0]), 0.4)
    np.testing.assert_array_equal(kept, [1, 0, 1, 0, 1])


def test_first_of_each_by_hand():
    ids, weight = jnp.int32([4, 2, 4, 2, 0, 7, 0]), jnp.float32([0, 1, 1, 1, 1, 0, 1])
    expected = [0, 1, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(losses.first_of_each(ids, weight), expected)
    np.testing.assert_array_equal(losses.first_of_each(ids, jnp.zeros(7)), np.zeros(7))


def test_simgcl_draws_new_uniform_noise_for_each_view_and_step():
    side = Side("simgcl")
    keys = (jax.random.key(n) for n in range(20))
    draw = lambda key: side.model.apply(
        {"params": side.params}, method=SimGCL._draws, rngs={"dropout": key}
    )
    seen = [np.asarray(noise) for key in keys for view in draw(key) for noise in view]
    assert len(seen) == 20 * 2 * 3 and len({noise.tobytes() for noise in seen}) == len(seen)
    values = np.stack(seen)
    assert values.shape[1:] == (50, 8) and 0 <= values.min() and values.max() < 1
    np.testing.assert_allclose((values.mean(), values.var()), (1 / 2, 1 / 12), atol=0.01)


def test_simgcl_steps_by_the_length_of_its_noise():
    side = Side("simgcl")
    first = jnp.where(jnp.arange(400).reshape(50, 8) % 3 == 0, -0.2, 0.3)
    draw = [jnp.asarray(side.recorded["draws"][0, 0])]
    model = SimGCL(side.data.spec, dim=8, layers=1, noise=0.25)
    run = lambda m: m._perturbed(side.ctx.graphs["train"], first, draw) - first
    step = np.asarray(model.apply({"params": side.params}, method=run))
    np.testing.assert_allclose(np.linalg.norm(step, axis=1), 0.25, rtol=1e-5)
    np.testing.assert_array_equal(np.sign(step), np.sign(first))


def test_simgcl_without_steps_is_an_error():
    with pytest.raises(UserError, match=r"model.layers is 0"):
        SimGCL.context(made.dataset(np.int32([0]), np.int32([0]), 1, 1), layers=0)


def test_ngcf_graph():
    side = Side("ngcf")
    dense = graph.matmul(side.ctx.graphs["train"], jnp.eye(50))
    assert made.difference(dense, side.recorded["adjacency"]) < 1e-6


def test_ngcf_drops_in_training_only():
    side = Side("ngcf")
    variables, model = {"params": side.params}, side.model.clone(dropout=0.5)
    rep = model.apply(variables, side.ctx, method="represent")  # there is no key to drop with
    assert made.difference(rep["user"], side.recorded["rep/user"]) < 5e-6

    rngs = [{"dropout": jax.random.key(n)} for n in range(2)]
    train = lambda m: m._nodes(side.ctx, deterministic=False)
    nodes = np.asarray(model.apply(variables, method=train, rngs=rngs[0]))
    np.testing.assert_array_equal(nodes[:30, :8], rep["user"][:, :8])  # never the embeddings
    assert 0.4 < (nodes[:, 8:] == 0).mean() < 0.6
    one, two = (
        model.apply(variables, side.batch, side.ctx, method="loss", rngs=r)[0] for r in rngs
    )
    assert one != two


def test_ngcf_initialises_biases_as_xavier_rows():
    side = Side("ngcf")
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    model = NGCF(side.data.spec, dim=8, hidden=(500,))
    params = model.init(keys, side.batch, side.ctx, method="loss")["params"]
    bias = np.asarray(params["sum_0"]["bias"])
    bound = (6 / 501) ** 0.5
    assert bound * 0.97 < np.abs(bias).max() <= bound
    np.testing.assert_allclose(bias.var(), bound**2 / 3, rtol=0.15)
