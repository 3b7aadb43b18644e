"""The sequence task, packed attention, the softmax over all items, and SASRec."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from mmrec_jax.models.sequence.sasrec import SASRec
from mmrec_jax.ops import attention, softmax
from mmrec_jax.tasks import sequence
from mmrec_jax.types import Context, Dataset, Interactions, Query, Spec, UserError

CONFIG = ConfigDict(
    {"train": {"batch_size": 4}, "eval": {"block": 2, "protocol": "strict"}}, type_safe=False
)
FIXTURE = Path(__file__).parent / "fixtures" / "sasrec.npz"


def interactions(lines: dict[int, list[int]], time=None) -> Interactions:
    user = np.repeat(list(lines), [len(items) for items in lines.values()]).astype(np.int32)
    item = np.concatenate([np.asarray(items, np.int32) for items in lines.values()])
    return Interactions(user, item, None if time is None else np.asarray(time, np.int64))


def dataset(train: Interactions, valid=None, test=None, max_len=3, num_items=9) -> Dataset:
    spec = Spec(num_users=5, num_items=num_items, max_len=max_len)
    empty = interactions({0: []})
    return Dataset(
        "tiny", spec, train, valid or empty, test or empty, np.arange(5), np.arange(num_items)
    )


TINY = dataset(
    interactions({0: [4, 2, 7, 1, 0], 1: [3], 2: [5, 6], 4: [8, 0, 3]}),
    interactions({0: [3], 2: [2]}),
    interactions({0: [5], 2: [1]}),
)


def draw(data, index, weight, key=0, config=CONFIG):
    arrays = sequence.prepare(data, config)
    index, weight = jnp.asarray(index), jnp.asarray(weight, jnp.float32)
    return jax.jit(sequence.batch)(jax.random.key(key), arrays, index, weight)


def test_examples_by_hand():
    assert sequence.size(sequence.prepare(TINY, CONFIG)) == 3  # user 1 has one item, user 3 none
    batch = draw(TINY, [0, 1, 2, 0], [1, 1, 0.5, 0])
    np.testing.assert_array_equal(batch.user, [0, 2, 4, 0])
    pad = [-1, -1, -1]
    np.testing.assert_array_equal(batch.items, [[2, 7, 1], [-1, -1, 5], [-1, 8, 0], pad])
    np.testing.assert_array_equal(batch.targets, [[7, 1, 0], [-1, -1, 6], [-1, 0, 3], pad])
    np.testing.assert_array_equal(batch.mask, [[1, 1, 1], [0, 0, 1], [0, 0.5, 0.5], [0, 0, 0]])


def test_histories_are_ordered_by_time_then_place():
    data = dataset(interactions({0: [1, 2, 3, 4]}, time=[9, 5, 5, 1]))
    batch = draw(data, [0], [1])
    np.testing.assert_array_equal(batch.items, [[4, 2, 3]])
    np.testing.assert_array_equal(batch.targets, [[2, 3, 1]])


def test_negatives_are_never_the_users_items():
    batches = [draw(TINY, [0, 1, 2], [1, 1, 1], key) for key in range(40)]
    for row, others in enumerate([{3, 5, 6, 8}, {0, 1, 2, 3, 4, 7, 8}, {1, 2, 4, 5, 6, 7}]):
        drawn = {int(i) for batch in batches for i in batch.negatives[row]}
        assert drawn == others  # all of them turn up, nothing else does


def test_one_training_item_each_is_an_error():
    with pytest.raises(UserError, match="no user has two training interactions"):
        sequence.prepare(dataset(interactions({0: [1], 1: [2]})), CONFIG)


def test_queries_read_what_is_known_before_the_split():
    valid, test = (sequence.queries(TINY, split, CONFIG) for split in ("valid", "test"))
    np.testing.assert_array_equal(valid.sequence[0], [[7, 1, 0], [-1, 5, 6]])
    np.testing.assert_array_equal(test.sequence[0], [[1, 0, 3], [5, 6, 2]])
    np.testing.assert_array_equal(test.target[0], [[5], [1]])


def test_enough_blocks_holds_nearly_every_batch():
    rng = np.random.default_rng(0)
    steps = np.minimum(rng.geometric(0.2, 5000), 50)
    blocks = sequence.enough_blocks(steps, 256, 50)
    totals = [steps[rng.choice(5000, 256, replace=False)].sum() for _ in range(500)]
    assert max(totals) <= blocks * 50 < 2 * np.mean(totals)
    assert sequence.enough_blocks(np.full(9, 50), 256, 50) == 256


def test_packed_layout_by_hand():
    items = jnp.asarray([[-1, 3, 4], [7, 8, 9], [-1, -1, 5]])
    layout = attention.packed(items, 3)
    np.testing.assert_array_equal(layout.slot, [[1, 2, 3], [4, 5, 8], [-1, -1, -1]])
    np.testing.assert_array_equal(layout.take(items, -1), [[3, 4, 7], [8, 9, 5], [-1, -1, -1]])
    np.testing.assert_array_equal(layout.column[:2], [[1, 2, 0], [1, 2, 2]])
    seen = layout.visible()
    assert seen.shape == (3, 3, 6)
    np.testing.assert_array_equal(np.flatnonzero(seen[0, 1]), [3, 4])  # 4 sees 3 and itself
    np.testing.assert_array_equal(np.flatnonzero(seen[1, 1]), [2, 3, 4])  # 9 sees 7, 8, itself
    np.testing.assert_array_equal(np.flatnonzero(seen[1, 2]), [5])  # 5 begins a history
    assert not seen[2, :, :3].any()  # empty positions see no others


@pytest.mark.parametrize("num_items", [5, 2**19])  # all rows in one chunk; eight at a time
def test_cross_entropy_equals_the_naive_softmax(num_items):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    hidden, table = 3 * normal(21, 4), normal(num_items, 4)
    target = jnp.asarray(rng.integers(0, num_items, 21)).at[2].set(-1)
    where = jnp.asarray(rng.uniform(size=21) * (rng.uniform(size=21) < 0.7), jnp.float32)
    where = where.at[2].set(0)

    def naive(hidden, table):
        log_p = jax.nn.log_softmax(hidden @ table.T)
        nll = -jnp.take_along_axis(log_p, target[:, None], axis=1)[:, 0]
        return 7 * (where * nll).sum() / where.sum()

    ours = lambda hidden, table: 7 * softmax.cross_entropy(hidden, table, target, where)
    both = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(hidden, table)
    for got, expected in zip(
        jax.tree.leaves(both(ours)), jax.tree.leaves(both(naive)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_cross_entropy_at_its_limits():
    table, target = jnp.eye(3), jnp.zeros(4, jnp.int32)
    loss = lambda hidden, where: softmax.cross_entropy(hidden, table, target, where)
    grad = jax.grad(loss)(jnp.ones((4, 3)), jnp.zeros(4))
    assert loss(jnp.ones((4, 3)), jnp.zeros(4)) == 0 and not grad.any()
    assert loss(jnp.asarray([[0.0, 500, 0]] * 4), jnp.ones(4)) == 500  # exp(500) overflows
    assert jnp.isnan(loss(jnp.full((4, 3), jnp.nan), jnp.ones(4)))
    stacked = jnp.arange(24.0).reshape(2, 4, 3) / 10
    where = jnp.asarray([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    alone = [loss(h, w) for h, w in zip(stacked, where, strict=True)]
    np.testing.assert_allclose(jax.vmap(loss)(stacked, where), alone, rtol=1e-6)


# SASRec


def small(max_len=6, num_items=30, **fields) -> SASRec:
    fields = {"dim": 8, "layers": 2, "heads": 2, "dropout": 0.0} | fields
    return SASRec(Spec(num_users=9, num_items=num_items, max_len=max_len), **fields)


def batch_of(items, targets, negatives, blocks=None) -> sequence.Batch:
    items = jnp.asarray(items)
    mask = (items >= 0).astype(jnp.float32)
    user = jnp.zeros(len(items), jnp.int32)
    arrays = map(jnp.asarray, (targets, negatives))
    return sequence.Batch(user, items, *arrays, mask, blocks or len(items))


def query_of(items) -> Query:
    rows, none = len(items), jnp.zeros(0, jnp.int32)
    user = jnp.zeros(rows, jnp.int32)
    target = jnp.zeros((rows, 1), jnp.int32)
    return Query(user, user == 0, target, none, none, none, none, jnp.asarray(items))


@pytest.fixture(scope="module")
def recorded():
    with np.load(FIXTURE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def params(recorded):
    names = [name for name in recorded if name.startswith("param/")]
    flat = {tuple(name.split("/")[1:]): jnp.asarray(recorded[name]) for name in names}
    return traverse_util.unflatten_dict(flat)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_grads(model, params, batch, key=0):
    rngs = {"dropout": jax.random.key(key)}
    loss = lambda p: model.apply({"params": p}, batch, Context(), method="loss", rngs=rngs)[0]
    return jax.value_and_grad(loss)(params)


@functools.partial(jax.jit, static_argnums=0)
def states_of(model, params, items):
    call = lambda model: model.encode(items, attention.padded(items), deterministic=True)
    return model.apply({"params": params}, method=call)


@pytest.mark.parametrize("case", ["full", "padded"])
@pytest.mark.parametrize("norm", ["original", "pre", "post"])
def test_agrees_with_a_pytorch_port(recorded, params, norm, case):
    """Numbers of pmixer/SASRec.pytorch with these weights, its output projection the identity.

    "pre" and "post" are commit fde8a9c with and without ``--norm_first``; "original" is 33bc1d8,
    before that option. The port lets padding be attended to; for "padded" those keys were masked,
    as in the authors' TensorFlow code.
    """
    items = jnp.asarray(recorded[f"{case}/items"])
    known = (items >= 0)[..., None]
    states = jnp.where(known, states_of(small(norm=norm), params, items), 0)
    np.testing.assert_allclose(states, recorded[f"{case}/{norm}/states"], atol=1e-5)

    scores = small(norm=norm).apply(
        {"params": params}, {"item": params["item"]}, query_of(items), method="score"
    )
    np.testing.assert_allclose(scores, recorded[f"{case}/{norm}/scores"], atol=1e-5)

    batch = batch_of(*(recorded[f"{case}/{n}"] for n in ("items", "targets", "negatives")))
    for objective in ("bce", "ce"):
        model = small(norm=norm, objective=objective)
        loss, grads = loss_and_grads(model, params, batch)
        np.testing.assert_allclose(loss, recorded[f"{case}/{norm}/{objective}"], rtol=1e-6)
        flat = traverse_util.flatten_dict(grads, sep="/")
        ours = np.concatenate([np.ravel(flat[name]) for name in sorted(flat)])
        np.testing.assert_allclose(ours, recorded[f"{case}/{norm}/{objective}/grad"], atol=1e-5)


def test_init_makes_the_same_parameters(recorded, params):
    batch = batch_of(*(recorded[f"full/{n}"] for n in ("items", "targets", "negatives")))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    fresh = small(dropout=0.5).init(keys, batch, Context(), method="loss")["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("norm", ["original", "pre", "post"])
def test_later_items_change_no_earlier_state(recorded, params, norm):
    items = jnp.asarray(recorded["padded/items"])
    changed = items.at[:, 4:].set((items[:, 4:] + 11) % 30)
    before, after = (states_of(small(norm=norm), params, i) for i in (items, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (jnp.abs(before[:, 4:] - after[:, 4:]).max(axis=-1) > 1e-3).all()


def test_more_room_on_the_left_changes_nothing(recorded, params):
    items = jnp.asarray(recorded["padded/items"])
    shorter = params | {"position": params["position"][2:]}
    rows = slice(1, None)  # row 0 is longer than four
    long, short = states_of(small(), params, items), states_of(small(4), shorter, items[:, 2:])
    known = (items[rows, 2:] >= 0)[..., None]
    np.testing.assert_allclose(
        jnp.where(known, long[rows, 2:], 0), jnp.where(known, short[rows], 0), atol=1e-6
    )


def test_empty_history_gets_finite_scores(params):
    empty = query_of(jnp.full((2, 6), -1))
    score = small().apply({"params": params}, {"item": params["item"]}, empty, method="score")
    expected = jnp.stack([params["last_norm"]["bias"]] * 2) @ params["item"].T
    np.testing.assert_allclose(score, expected, atol=1e-6)
    batch = batch_of(empty.sequence, empty.sequence, empty.sequence)
    loss, grads = loss_and_grads(small(), params, batch)
    assert loss == 0 and all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("objective", ["ce", "bce"])
@pytest.mark.parametrize("blocks", [3, 1])  # 16 known positions: three blocks hold them, one not
def test_packing_changes_nothing(recorded, params, objective, blocks):
    parts = [recorded[f"padded/{n}"] for n in ("items", "targets", "negatives")]
    padding = [np.full((3, 6), -1, np.int32)] * 3
    parts = [np.concatenate([a, b]) for a, b in zip(parts, padding, strict=True)]
    model = small(objective=objective, layers=1)
    plain = loss_and_grads(model, params, batch_of(*parts))
    packed = loss_and_grads(model, params, batch_of(*parts, blocks))
    for got, expected in zip(jax.tree.leaves(packed), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training_only(recorded, params):
    parts = [recorded[f"padded/{n}"] for n in ("items", "targets", "negatives")]
    model = small(dropout=0.5, layers=1)
    losses = [loss_and_grads(model, params, batch_of(*parts), key)[0] for key in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    rep, query = {"item": params["item"]}, query_of(parts[0])
    score = lambda model: model.apply({"params": params}, rep, query, method="score")
    np.testing.assert_array_equal(score(model), score(small(layers=1)))


@pytest.mark.parametrize("objective", ["ce", "bce"])
def test_bfloat16_stays_close(recorded, params, objective):
    parts = [recorded[f"padded/{n}"] for n in ("items", "targets", "negatives")]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    model, batch = small(objective=objective), batch_of(*parts)
    assert states_of(model, half, batch.items).dtype == jnp.bfloat16
    loss, grads = loss_and_grads(model, half, batch)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(float(recorded[f"padded/original/{objective}"]), rel=0.02)
    assert all(g.dtype == jnp.bfloat16 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("field", "value"), [("objective", "bpr"), ("norm", "batch"), ("heads", 3)]
)
def test_unknown_options_are_errors(params, field, value):
    with pytest.raises(UserError, match=field):
        small(**{field: value}).apply({"params": params}, Context(), method="represent")
