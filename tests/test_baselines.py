"""Methods without parameters: hand-worked scores, reference solutions, other people's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest

from mmrec_jax.models.baseline.ease import EASE
from mmrec_jax.models.baseline.itemknn import ItemKNN
from mmrec_jax.models.baseline.popularity import Popularity
from mmrec_jax.types import Query, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "itemknn.npz"
REAL = Path(__file__).parents[2] / "shared" / "data"


def make_query(rows, items, size):
    """A block whose history is the given pairs, with padding, and whose mask says otherwise."""
    rows, items = np.asarray(rows), np.asarray(items)
    order = np.lexsort((items, rows))  # as in the queries of an evaluation
    rows, items = rows[order], items[order]
    rows = jnp.asarray([*rows, size, size], jnp.int32)
    items = jnp.asarray([*items, 0, 0], jnp.int32)
    return Query(
        user=jnp.zeros(size, jnp.int32),  # of no account: what counts is the history
        valid=jnp.ones(size, bool),
        target=jnp.full((size, 1), -1),
        history_row=rows,
        history_item=items,
        masked_row=jnp.full(3, size),
        masked_item=jnp.zeros(3, jnp.int32),
        sequence=jnp.zeros((size, 0), jnp.int32),
    )


def scores(method, data, **hyper):
    """Scores [U, I] of the training histories, compiled as an evaluation compiles them."""
    ctx = method.context(data, **hyper)
    model = method(data.spec, **hyper)
    query = make_query(data.train.user, data.train.item, data.spec.num_users)

    @jax.jit
    def compute(ctx, query):
        return model.apply({}, model.apply({}, ctx, method="represent"), query, method="score")

    return np.asarray(compute(ctx, query))


@pytest.fixture(scope="module")
def random_data():
    rng = np.random.default_rng(3)
    pairs = np.unique(np.stack([rng.integers(0, 60, 500), rng.integers(0, 25, 500)], 1), axis=0)
    return made.dataset(*pairs.T)


def dense(data):
    """Training interactions as a matrix of zeros and ones, float64 [U, I]."""
    matrix = np.zeros((data.spec.num_users, data.spec.num_items))
    matrix[data.train.user, data.train.item] = 1
    return matrix


def test_popularity_counts_training_interactions():
    data = made.dataset([0, 1, 2, 0], [1, 1, 1, 2], items=4)
    np.testing.assert_array_equal(scores(Popularity, data), [[0, 3, 1, 0]] * 3)


def test_ease_of_two_items_by_hand():
    # Gram [[2, 1], [1, 1]], reg 1: [[3, 1], [1, 2]] inverts to [[2, -1], [-1, 3]] / 5, so the
    # weights are B_01 = -(-1 / 5) / (3 / 5) = 1/3 and B_10 = 1/2.
    data = made.dataset([0, 0, 1], [0, 1, 0])
    np.testing.assert_allclose(scores(EASE, data, reg=1.0), [[1 / 2, 1 / 3], [0, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("reg", [1.0, 300.0])
def test_ease_equals_the_float64_regression(random_data, reg):
    matrix = dense(random_data)
    gram = matrix.T @ matrix
    want = np.zeros_like(gram)
    for item in range(len(gram)):  # the definition: each item regressed on all others
        others = np.delete(np.arange(len(gram)), item)
        system = gram[np.ix_(others, others)] + reg * np.eye(len(others))
        want[others, item] = np.linalg.solve(system, gram[others, item])
    weight = np.asarray(EASE.context(random_data, reg=reg).tables["weight"])
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, want, rtol=1e-5, atol=1e-6)
    got = scores(EASE, random_data, reg=reg)
    np.testing.assert_allclose(got, matrix @ want, rtol=1e-5, atol=1e-5)


def test_repeated_interactions_count_once(random_data):
    train = random_data.train
    twice = made.dataset(np.tile(train.user, 2), np.tile(train.item, 2))
    for method, hyper in ((EASE, {"reg": 5.0}), (ItemKNN, {"k": 4, "shrink": 2.0})):
        np.testing.assert_array_equal(
            scores(method, twice, **hyper), scores(method, random_data, **hyper)
        )


@pytest.mark.parametrize("reg", [0.0, -1.0, float("nan")])
def test_ease_needs_a_positive_reg(random_data, reg):
    with pytest.raises(UserError, match="model.reg"):
        EASE.context(random_data, reg=reg)


def test_ease_says_that_reg_is_too_small():
    data = made.dataset(*np.indices((3, 50)).reshape(2, -1))  # all items have the same users
    with pytest.raises(UserError, match="too small"):
        EASE.context(data, reg=1e-30)


def test_itemknn_on_behaviour_by_hand():
    # Users {0, 1}, {0, 1}, {0, 2}: s_01 = 2 / sqrt(3 * 2), s_02 = 1 / sqrt(3 * 1), s_12 = 0.
    data = made.dataset([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 2])
    near, far = 2 / 6**0.5, 1 / 3**0.5
    both = [[near, near, far], [near, near, far], [far, near, far]]
    np.testing.assert_allclose(scores(ItemKNN, data, k=2, shrink=0.0), both, rtol=1e-6)
    # With k = 1 item 0 counts item 1 alone; 1 and 2 count item 0 as before.
    one = [[near, near, far], [near, near, far], [0, near, far]]
    np.testing.assert_allclose(scores(ItemKNN, data, k=1, shrink=0.0), one, rtol=1e-6)


def test_itemknn_on_content_by_hand():
    # Directions 0, 60 and 180 degrees; item 3 has no features.
    angle = np.deg2rad([0, 60, 180, 0])
    rows = np.stack([np.cos(angle), np.sin(angle)], 1) * [[1], [2], [3], [0]]
    data = made.dataset(
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        features={"image": rows.astype(np.float32)},
        present={"image": np.array([True, True, True, False])},
    )
    got = scores(ItemKNN, data, signal="content", k=2, shrink=0.0)
    want = [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, -0.5, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(got, want, atol=1e-6)
    shrunk = scores(ItemKNN, data, signal="content", k=2, shrink=1.0)
    np.testing.assert_allclose(shrunk[0], [1 / 2, 1 / 3, 0, 0], atol=1e-6)


def test_itemknn_content_takes_an_item_with_any_feature():
    image, text = np.eye(3, dtype=np.float32), np.ones((3, 2), np.float32)
    image[1] = text[2] = 0
    present = {"image": np.array([1, 0, 1], bool), "text": np.array([1, 1, 0], bool)}
    data = made.dataset(
        [0, 1, 2], [0, 1, 2], features={"image": image, "text": text}, present=present
    )
    got = scores(ItemKNN, data, signal="content", k=3, shrink=0.0)
    side = (2 / 3) ** 0.5
    np.testing.assert_allclose(got, [[1, side, 0], [side, 1, 0], [0, 0, 1]], atol=1e-6)


def test_itemknn_agrees_with_recbole_and_mmrec():
    """The fixture holds the scores of their own similarity code on one random data set."""
    with np.load(FIXTURE, allow_pickle=False) as stored:
        case = dict(stored)
    features = {name: case[name] for name in ("image", "text")}
    data = made.dataset(case["user"], case["item"], features=features, items=len(case["image"]))
    hyper = {"k": int(case["k"]), "shrink": float(case["shrink"])}
    for signal in ("behaviour", "content"):
        got = scores(ItemKNN, data, signal=signal, **hyper)
        np.testing.assert_allclose(got, case[signal], rtol=2e-6, atol=2e-6, err_msg=signal)


def test_itemknn_ties_go_to_the_smaller_item():
    # Items 1, 2 and 3 are each shared with item 0 by one user and are equally popular.
    data = made.dataset([0, 0, 1, 1, 2, 2], [0, 3, 0, 1, 0, 2])
    got = scores(ItemKNN, data, k=1, shrink=0.0)
    np.testing.assert_allclose(got[:, 0], [0, 1 / 3**0.5, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("hyper", "said"),
    [
        ({"signal": "behavior"}, "model.signal is 'behavior'.*behaviour, content"),
        ({"signal": "content"}, "tiny: .* needs item features"),
        ({"k": 0}, "model.k is 0"),
        ({"shrink": -1.0}, "model.shrink -1.0"),
    ],
)
def test_itemknn_says_what_is_wrong(random_data, hyper, said):
    with pytest.raises(UserError, match=said):
        ItemKNN.context(random_data, **hyper)


@pytest.mark.parametrize("method", [Popularity, ItemKNN, EASE])
def test_nothing_to_learn(random_data, method):
    ctx = method.context(random_data)
    assert method(random_data.spec).init(jax.random.key(0), ctx, method="represent") == {}


@pytest.mark.real
def test_ease_on_lastfm():
    source = REAL / "lastfm2k" / "lfm2k.inter"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    from ml_collections import ConfigDict

    from mmrec_jax import data as datasets
    from mmrec_jax import metrics, queries
    from mmrec_jax.ops import topk

    data = datasets.load(str(source))
    config = ConfigDict({"eval": {"block": 512, "protocol": "mmrec"}})
    asked = jax.tree.map(jnp.asarray, queries.ranking(data, "test", config))
    model, ctx = EASE(data.spec, reg=100.0), EASE.context(data, reg=100.0)

    @jax.jit
    def compute(weight, asked):
        def block(query):
            ranks = topk.target_ranks(model.apply({}, weight, query, method="score"), query)
            return metrics.from_ranks(ranks, query.target, ("recall", "ndcg"), (20,))

        return jax.lax.map(block, asked)

    measured = compute(ctx.tables["weight"], asked)
    got = {name: float(value[asked.valid].mean()) for name, value in measured.items()}
    # What a plain NumPy solution and MMRec's evaluator give on this split.
    assert got["recall@20"] == pytest.approx(0.3955, abs=6e-5)
    assert got["ndcg@20"] == pytest.approx(0.2711, abs=6e-5)
