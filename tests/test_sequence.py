"""The sequence task, packed attention, the softmax over all items, SASRec, GRU4Rec and HSTU."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from mmrec_jax import queries
from mmrec_jax.models.sequence import hstu
from mmrec_jax.models.sequence.gru4rec import GRU4Rec
from mmrec_jax.models.sequence.hstu import HSTU
from mmrec_jax.models.sequence.sasrec import SASRec
from mmrec_jax.ops import attention, softmax
from mmrec_jax.tasks import sequence
from mmrec_jax.types import Context, Dataset, Interactions, Query, Spec, UserError

CONFIG = ConfigDict(
    {"train": {"batch_size": 4}, "eval": {"block": 2, "protocol": "strict"}}, type_safe=False
)
FIXTURES = Path(__file__).parent / "fixtures"


def interactions(lines: dict[int, list[int]], time=None) -> Interactions:
    user = np.repeat(list(lines), [len(items) for items in lines.values()]).astype(np.int32)
    item = np.concatenate([np.asarray(items, np.int32) for items in lines.values()])
    return Interactions(user, item, None if time is None else np.asarray(time, np.int64))


def dataset(train: Interactions, valid=None, test=None, max_len=3, num_items=9) -> Dataset:
    spec = Spec(num_users=5, num_items=num_items, max_len=max_len)
    empty = interactions({0: []}, None if train.time is None else [])
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
    np.testing.assert_array_equal(batch.times, [[0, 4, 4, 8]])  # counted from the first moment
    assert draw(TINY, [0], [1]).times is None


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
    assert valid.times is None and test.times is None


def test_queries_know_when_they_are_asked():
    data = dataset(
        interactions({0: [4, 2, 7, 1], 2: [5, 6]}, time=[11, 12, 13, 14, 31, 30]),
        interactions({0: [3], 2: [2]}, time=[15, 10]),
        interactions({0: [5, 6], 2: [1], 3: [8]}, time=[27, 16, 40, 50]),
    )
    valid, test = (sequence.queries(data, split, CONFIG) for split in ("valid", "test"))
    asked = {int(user): times for user, times in zip(valid.user[0], valid.times[0], strict=True)}
    np.testing.assert_array_equal(asked[0], [2, 3, 4, 5])
    np.testing.assert_array_equal(asked[2], [0, 20, 21, 0])
    users, times = test.user.reshape(-1), test.times.reshape(-1, 4)
    asked = {int(user): row for user, row in zip(users, times, strict=True) if row.any()}
    np.testing.assert_array_equal(asked[0], [3, 4, 5, 6])  # the earlier of its two targets
    np.testing.assert_array_equal(asked[3], [0, 0, 0, 40])  # no history at all
    known = queries.join(queries.join(data.train, data.valid), data.test)
    now = queries.moments(data, known, np.array([0, 1]), wanted=None)
    np.testing.assert_array_equal(now, [[5, 6, 17, 40], [0, 0, 0, 40]])


def test_times_in_fine_units_fit_the_device():
    data = dataset(interactions({0: [1, 2, 3]}, time=[5, 10**7 + 5, 10**15 + 5]))
    unit = 931323  # the least that 10**15 fills no more than 30 bits of
    ticks = queries.ticks(data, data.train.time)
    assert ticks.dtype == np.int32
    np.testing.assert_array_equal(ticks, [0, 10**7 // unit, 10**15 // unit])
    later = queries.ticks(data, np.array([0, 15 * 10**14, 10**16]))
    np.testing.assert_array_equal(later, [0, 15 * 10**14 // unit, 2**31 - 1])


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


def fixture(name: str) -> tuple[dict, dict]:
    """What other code returned, and the parameters it had, as ours are named."""
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
        recorded = dict(file)
    names = [name for name in recorded if name.startswith("param/")]
    flat = {tuple(name.split("/")[1:]): jnp.asarray(recorded[name]) for name in names}
    return recorded, traverse_util.unflatten_dict(flat)


def flattened(grads, skip="-") -> np.ndarray:
    flat = traverse_util.flatten_dict(grads, sep="/")
    return np.concatenate([np.ravel(flat[name]) for name in sorted(flat) if skip not in name])


@pytest.fixture(scope="module")
def recorded():
    return fixture("sasrec")[0]


@pytest.fixture(scope="module")
def params():
    return fixture("sasrec")[1]


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
        ours = flattened(grads)
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
    ("field", "value"),
    [("objective", "bpr"), ("sampler", "hard"), ("norm", "batch"), ("heads", 3)],
)
def test_unknown_options_are_errors(params, field, value):
    with pytest.raises(UserError, match=field):
        small(**{field: value}).apply({"params": params}, Context(), method="represent")


# GRU4Rec


def small_gru(max_len=6, **fields) -> GRU4Rec:
    fields = {"dim": 8, "hidden": 12, "layers": 2, "dropout": 0.0} | fields
    return GRU4Rec(Spec(num_users=9, num_items=30, max_len=max_len), **fields)


def test_gru4rec_agrees_with_recbole():
    """Numbers of RUCAIBox/RecBole, GRU4Rec, commit 7b02be5, with these weights.

    RecBole's examples are all prefixes of the histories; its softmax also offers the padding item,
    whose logit was left out.
    """
    recorded, params = fixture("gru4rec")
    model, items = small_gru(), jnp.asarray(recorded["items"])

    def states(model):
        return model.project(model.encode(items, deterministic=True)).swapaxes(0, 1)

    ours = model.apply({"params": params}, method=states)
    ours = jnp.where((items >= 0)[..., None], ours, 0)
    np.testing.assert_allclose(ours, recorded["states"], atol=2e-6)
    rep, query = {"item": params["item"]}, query_of(items)
    scores = model.apply({"params": params}, rep, query, method="score")
    np.testing.assert_allclose(scores, recorded["scores"], atol=2e-6)
    batch = batch_of(items, recorded["targets"], recorded["targets"])
    loss, grads = loss_and_grads(model, params, batch)
    np.testing.assert_allclose(loss, recorded["loss"], rtol=1e-6)
    np.testing.assert_allclose(flattened(grads), recorded["grad"], atol=2e-6)
    fresh = model.init(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, batch, Context(), method="loss"
    )["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


# HSTU


def small_hstu(max_len=7, **fields) -> HSTU:
    fields = {"dim": 8, "layers": 2, "heads": 2, "head_dim": 4, "dropout": 0.0} | fields
    return HSTU(Spec(num_users=9, num_items=30, max_len=max_len), **fields)


@pytest.fixture(scope="module")
def public_hstu():
    return fixture("hstu")


def hstu_batch(recorded, case, timed, blocks=None) -> sequence.Batch:
    parts = [recorded[f"{case}/{name}"] for name in ("items", "targets", "targets")]
    times = jnp.asarray(recorded[f"{case}/times"]) if timed else None
    return batch_of(*parts, blocks).replace(times=times)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("case", ["full", "padded"])
def test_hstu_agrees_with_the_authors_code(public_hstu, monkeypatch, case, timed):
    """Numbers of facebookresearch/generative-recommenders, commit 2e81fab, with these weights.

    The research code's HSTU, cosine output, sampled softmax at temperature 0.05, given negatives.
    Without times its bias for them was set to zero.
    """
    recorded, params = public_hstu
    batch, model = hstu_batch(recorded, case, timed), small_hstu(num_negatives=7)
    known = (batch.items >= 0)[..., None]
    layout = attention.padded(batch.items)
    states = model.apply(
        {"params": params}, batch.items, batch.times, layout, True, method="encode"
    )
    name = f"{case}/{'timed' if timed else 'untimed'}"
    states = jnp.where(known, states, 0)
    np.testing.assert_allclose(states, recorded[f"{name}/states"], atol=2e-6)

    query = query_of(batch.items).replace(times=batch.times)
    rep = model.apply({"params": params}, Context(), method="represent")
    scores = model.apply({"params": params}, rep, query, method="score")
    np.testing.assert_allclose(scores, recorded[f"{name}/scores"], atol=2e-6)

    given = jnp.asarray(recorded["negatives"])
    monkeypatch.setattr(sequence, "_draw", lambda *_: given)
    loss, grads = loss_and_grads.__wrapped__(model, params, batch)
    np.testing.assert_allclose(loss, recorded[f"{name}/loss"], rtol=2e-6)
    theirs = recorded[f"{name}/grad"]
    ours = flattened(grads, skip="-" if timed else "gap")
    np.testing.assert_allclose(ours, theirs, atol=5e-6 * np.abs(theirs).max())
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    fresh = model.init(keys, batch, Context(), method="loss")["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("blocks", [3, 2])  # 16 known positions: three blocks hold them, two not
def test_packing_changes_nothing_for_hstu(public_hstu, timed, blocks):
    recorded, params = public_hstu
    batch = hstu_batch(recorded, "padded", timed)
    pad = lambda x, fill: jnp.pad(x, ((0, 3), (0, 0)), constant_values=fill)
    batch = batch.replace(
        user=jnp.zeros(8, jnp.int32),
        items=pad(batch.items, -1),
        targets=pad(batch.targets, -1),
        negatives=pad(batch.negatives, -1),
        mask=pad(batch.mask, 0),
        times=pad(batch.times, 0) if timed else None,
    )
    model = small_hstu(objective="ce")
    plain = loss_and_grads(model, params, batch.replace(blocks=8))
    packed = loss_and_grads(model, params, batch.replace(blocks=blocks))
    for got, expected in zip(jax.tree.leaves(packed), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_time_buckets_by_hand():
    items = jnp.asarray([[-1, 3, 4]])
    times = jnp.asarray([[0, 10, 12, 1012]])
    bucket = hstu.gaps(times, attention.padded(items), 20)[0]
    # 12 - 10 = 2: log 2 / 0.301 = 2.3; 1012 - 10: 6.91 / 0.301 = 22.96; 1012 - 12: 22.95
    np.testing.assert_array_equal(bucket[1:, 1:], [[2, 0], [20, 20]])
    np.testing.assert_array_equal(hstu.distances(3, 3), [[0, 0, 0], [1, 0, 0], [2, 1, 0]])
    np.testing.assert_array_equal(hstu.distances(2, 4), [[1, 1, 0, 0], [1, 1, 1, 0]])


def test_when_a_query_is_asked_changes_the_scores_of_hstu(public_hstu):
    recorded, params = public_hstu
    batch = hstu_batch(recorded, "full", timed=True)
    query = query_of(batch.items).replace(times=batch.times)
    later = query.replace(times=batch.times.at[:, -1].add(10**9))
    model = small_hstu()
    rep = model.apply({"params": params}, Context(), method="represent")
    score = lambda query: model.apply({"params": params}, rep, query, method="score")
    assert (jnp.abs(score(query) - score(later)).max(axis=1) > 1e-3).all()
