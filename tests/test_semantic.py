"""Codes of items, the semantic task and TIGER."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from mmrec_jax import data as datasets
from mmrec_jax import queries, t5
from mmrec_jax.data import codes as coding
from mmrec_jax.data import prepared
from mmrec_jax.models.generative.tiger import TIGER
from mmrec_jax.ops import attention
from mmrec_jax.tasks import semantic
from mmrec_jax.tasks.semantic import Batch
from mmrec_jax.types import Dataset, Interactions, Query, Spec, UserError

CONFIG = ConfigDict(
    {"train": {"batch_size": 4}, "eval": {"block": 2, "protocol": "strict"}}, type_safe=False
)
FIXTURE = Path(__file__).parent / "fixtures" / "tiger.npz"
REAL = Path("../shared/data/beauty_codes")
CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 2], [2, 0], [2, 1]], np.int32)


def interactions(lines: dict[int, list[int]]) -> Interactions:
    user = np.repeat(list(lines), [len(items) for items in lines.values()]).astype(np.int32)
    item = np.concatenate([np.asarray(items, np.int32) for items in lines.values()])
    return Interactions(user, item)


def dataset(codes=CODES, max_len=3) -> Dataset:
    sizes = () if codes is None else tuple((codes.max(axis=0) + 1).tolist())
    spec = Spec(num_users=4, num_items=6, max_len=max_len, codes=sizes)
    train = interactions({0: [3, 1, 0, 2, 5], 1: [4], 2: [5, 3], 3: [0, 4, 1]})
    valid, test = interactions({0: [4], 2: [1]}), interactions({0: [4], 2: [0]})
    ids = np.arange(4), np.arange(100, 106)
    return Dataset("tiny", spec, train, valid, test, *ids, codes=codes)


# --- codes ----------------------------------------------------------------------------------------


def given(tmp_path, name: str, rows: dict) -> str:
    path = tmp_path / name
    if path.suffix == ".parquet":
        path.parent.mkdir(exist_ok=True)
        columns = {f"code_{n}": c for n, c in enumerate(zip(*rows.values(), strict=True))}
        pd.DataFrame({"item": [*rows], **columns}).to_parquet(path)
    else:
        path.write_text(json.dumps(rows))
    return str(path)


BY_ITEM = {str(100 + n): code.tolist() for n, code in enumerate(CODES)}
TOKENS = {item: [f"<a_{code[0]}>", f"<b_{code[1]}>"] for item, code in BY_ITEM.items()}


@pytest.mark.parametrize("rows", [BY_ITEM, TOKENS], ids=["numbers", "tokens"])
def test_codes_follow_their_items_whatever_the_order_of_the_file(tmp_path, rows):
    shuffled = {"999": rows["103"], **{item: rows[item] for item in sorted(rows, reverse=True)}}
    plain = dataset(codes=None)
    for name in ("codes.parquet", "x.index.json") if rows is BY_ITEM else ("x.index.json",):
        data = coding.attach(plain, given(tmp_path, name, shuffled))
        np.testing.assert_array_equal(data.codes, CODES)
        assert data.codes.dtype == np.int32 and data.spec.codes == (3, 3)
        assert data.notes["codes"]["of_other_items"] == 1 and data.notes["codes"]["moved"] == 0
    assert plain.codes is None and plain.spec.codes == ()


def test_a_workdir_stands_for_its_codes(tmp_path):
    given(tmp_path, "run/codes.parquet", BY_ITEM)
    data = coding.attach(dataset(codes=None), str(tmp_path / "run"))
    np.testing.assert_array_equal(data.codes, CODES)
    data = coding.attach(dataset(codes=None), "run/codes.parquet", folder=tmp_path)
    np.testing.assert_array_equal(data.codes, CODES)


def test_codes_come_with_the_data_by_load_and_from_frames(tmp_path):
    lines = {"5": [100, 101, 102, 103], "7": [103, 105, 104, 100]}
    given(tmp_path, "shop.inter.json", lines)
    given(tmp_path, "shop.index.json", BY_ITEM)
    data = datasets.load(str(tmp_path), codes="shop.index.json", split="leave_one_out")
    assert data.name == "shop" and data.user_ids.tolist() == [5, 7]
    assert data.item_ids[data.train.item].tolist() == [100, 101, 103, 105]
    assert data.item_ids[data.test.item].tolist() == [103, 100]
    np.testing.assert_array_equal(data.codes, CODES)
    frame = pd.DataFrame({"user": [1, 1, 1], "item": [102, 100, 104], "time": [1, 2, 3]})
    data = datasets.from_frames(frame, codes=str(tmp_path / "shop.index.json"))
    np.testing.assert_array_equal(data.codes, CODES[[0, 2, 4]])


def test_codes_survive_preparation(tmp_path):
    stored = prepared.write(dataset(), tmp_path, "tiny")
    again = prepared.read(stored)
    np.testing.assert_array_equal(again.codes, CODES)
    assert again.spec.codes == (3, 3)


SHARED = {**BY_ITEM, "101": [0, 0], "105": [0, 0]}
FULL = {**{str(100 + n): [0, 0] for n in range(6)}, "999": [0, 1]}


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        (
            "c.parquet",
            {k: v for k, v in BY_ITEM.items() if k != "103"},
            "item '103' of tiny has no",
        ),
        ("c.parquet", SHARED, "items '100' and '101' have the same codes .2 such items.*=move"),
        ("c.parquet", {**BY_ITEM, "101": [0, -1]}, r"item '101' has the codes \[0, -1\]"),
        ("c.parquet", {**BY_ITEM, "101": [0, 0.5]}, "'code_1' is not all whole numbers"),
        ("c.index.json", {**TOKENS, "101": ["<a_1>", "<b_x>"]}, "item '101' has '<b_x>'; expected"),
        ("c.index.json", {**BY_ITEM, "101": [0]}, "as many codes for each item"),
        ("c.index.json", {}, "as many codes for each item"),
        ("c.index.json", [1, 2], "as many codes for each item"),
        ("c.txt", {}, "codes are a codes.parquet, an .index.json"),
    ],
)
def test_codes_that_do_not_fit_are_one_line(tmp_path, name, rows, words):
    path = given(tmp_path, name, rows)
    with pytest.raises(UserError, match=words) as error:
        coding.attach(dataset(codes=None), path)
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


def test_further_mistakes_about_codes(tmp_path):
    plain = dataset(codes=None)
    with pytest.raises(UserError, match="there is no such file"):
        coding.attach(plain, str(tmp_path / "nothing.parquet"))
    with pytest.raises(UserError, match="codes.parquet: there is none; train the tokenizer"):
        coding.attach(plain, str(tmp_path))
    with pytest.raises(UserError, match="config.data.collisions is 'drop'"):
        coding.attach(plain, "features", "drop")
    path = tmp_path / "twice.parquet"
    pd.DataFrame({"item": ["100", "100"], "code_0": [0, 1]}).to_parquet(path)
    with pytest.raises(UserError, match="item '100' occurs more than once"):
        coding.attach(plain, str(path))
    pd.DataFrame({"id": ["100"], "code_0": [0]}).to_parquet(path)
    with pytest.raises(UserError, match="columns are id, code_0; expected item, code_0"):
        coding.attach(plain, str(path))
    path.write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        coding.attach(plain, str(path))
    with pytest.raises(UserError, match="no last code is free"):
        coding.attach(plain, given(tmp_path, "full.parquet", FULL), "move")
    with pytest.raises(UserError, match="tiny has no semantic codes; name the workdir"):
        TIGER.context(plain)


def test_items_with_the_same_codes_move_to_free_ones(tmp_path):
    data = coding.attach(dataset(codes=None), given(tmp_path, "c.parquet", SHARED), "move")
    # Of the last codes 0, 1 and 2 only 0 was taken after a first code of 0.
    np.testing.assert_array_equal(data.codes, [[0, 0], [0, 1], [1, 0], [1, 2], [2, 0], [0, 2]])
    assert data.notes["codes"]["moved"] == 2


def test_codes_of_features_say_which_items_are_alike():
    rng = np.random.default_rng(0)
    centre = np.repeat(10 * rng.normal(size=(3, 4)), 2, axis=0)  # three pairs of items
    features = {"text": (centre + 0.01 * rng.normal(size=(6, 4))).astype(np.float32)}
    data = dataclasses.replace(dataset(codes=None), features=features)
    data = coding.attach(data, "features")
    assert len(np.unique(data.codes, axis=0)) == 6 and data.codes.shape == (6, 3)
    assert len(np.unique(data.codes[:, 0])) == 3
    np.testing.assert_array_equal(data.codes[::2, 0], data.codes[1::2, 0])
    assert data.notes["codes"]["from"] == "features"
    with pytest.raises(UserError, match="tiny has no features to make codes of"):
        coding.attach(dataset(codes=None), "features")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "expected"),
        ('{"1": 3}', "expected"),
        ("[1]", "expected"),
        ('{"1": [1, "a', "expected"),
    ],
)
def test_lists_in_json_that_are_none(tmp_path, text, words):
    path = tmp_path / "x.inter.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        datasets.load(str(path))


@pytest.mark.real
@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/beauty_codes")
def test_ready_codes_of_beauty():
    options = dict(codes="Beauty.index.json", split="leave_one_out")
    with pytest.raises(UserError, match="have the same codes .13 such items"):
        datasets.load(str(REAL), **options)
    data = datasets.load(str(REAL), collisions="move", **options)
    assert data.name == "Beauty" and data.spec.codes == (256, 256, 256, 256)
    assert (data.spec.num_users, data.spec.num_items) == (22363, 12101)
    assert len(data.train) + len(data.valid) + len(data.test) == 198502
    assert data.codes[0].tolist() == [183, 70, 232, 6]
    assert len(np.unique(data.codes, axis=0)) == 12101


# --- the task -------------------------------------------------------------------------------------


def draw(index, weight, data=None, key=0) -> Batch:
    arrays = semantic.prepare(data or dataset(), CONFIG)
    index, weight = jnp.asarray(index), jnp.asarray(weight, jnp.float32)
    return jax.jit(semantic.batch)(jax.random.key(key), arrays, index, weight)


def test_batches_hold_codes_by_hand():
    arrays = semantic.prepare(dataset(), CONFIG)
    assert semantic.size(arrays) == 3  # user 1 has one item
    batch = draw([0, 1, 2, 0], [1, 0.5, 1, 0])
    none = [-1, -1]
    np.testing.assert_array_equal(batch.user, [0, 2, 3, 0])
    np.testing.assert_array_equal(
        batch.codes,
        [[[0, 1], [0, 0], [1, 0]], [none, none, [2, 1]], [none, [0, 0], [2, 0]], [none] * 3],
    )
    np.testing.assert_array_equal(
        batch.targets,
        [[[0, 0], [1, 0], [2, 1]], [none, none, [1, 2]], [none, [2, 0], [0, 1]], [none] * 3],
    )
    np.testing.assert_array_equal(batch.mask, [[1, 1, 1], [0, 0, 0.5], [0, 1, 1], [0, 0, 0]])


def test_a_prefix_is_a_history_cut_anywhere():
    batch = draw([0, 1, 2, 0], [1, 0.5, 1, 0])
    seen = set()
    for key in range(60):
        cut = jax.jit(semantic.one_prefix)(jax.random.key(key), batch)
        np.testing.assert_array_equal(cut.mask, [[0, 0, 1], [0, 0, 0.5], [0, 0, 1], [0, 0, 0]])
        assert (cut.targets[:, :-1] == -1).all()
        length = int((cut.codes[0, :, 0] >= 0).sum())
        seen.add(length)
        np.testing.assert_array_equal(cut.codes[0, 3 - length :], batch.codes[0, :length])
        assert (cut.codes[0, : 3 - length] == -1).all()
        np.testing.assert_array_equal(cut.targets[0, -1], batch.targets[0, length - 1])
        assert (cut.codes[3] == -1).all()
    assert seen == {1, 2, 3}


# --- TIGER ----------------------------------------------------------------------------------------

SMALL = dict(dim=16, layers=2, heads=2, head_dim=8, hidden=24, dropout=0.0, user_tokens=7)


def build(data=None, key=0, **fields):
    data = data or dataset()
    model, ctx = TIGER(data.spec, **{**SMALL, **fields}), TIGER.context(data)
    batch = draw([0, 1, 2, 0], [1, 0.5, 1, 0], data)
    keys = dict(zip(("params", "dropout"), jax.random.split(jax.random.key(key)), strict=True))
    return (
        model,
        ctx,
        batch,
        jax.jit(functools.partial(model.init, method="loss"))(keys, batch, ctx),
    )


def ask(data, **options) -> Query:
    blocks = semantic.queries(data, "test", CONFIG)
    return jax.tree.map(lambda x: jnp.asarray(x[0]), blocks)


def scores_of(model, variables, ctx, query):
    rep = model.apply(variables, ctx, method="represent")
    return np.asarray(model.apply(variables, rep, query, method="score"))


@pytest.mark.parametrize("causal", [False, True])
def test_a_wide_beam_ranks_as_the_exhaustive_scorer_does(causal):
    rng = np.random.default_rng(1)
    count = 70  # more than a chunk of the scorer
    codes = np.stack(np.unravel_index(rng.permutation(5 * 4 * 6)[:count], (5, 4, 6)), 1)
    codes = codes.astype(np.int32)
    train = interactions({user: rng.permutation(count)[: user + 1].tolist() for user in range(6)})
    spec = Spec(num_users=6, num_items=count, max_len=4, codes=(5, 4, 6))
    none = train.take(np.zeros(0, np.int64))
    data = Dataset("t", spec, train, none, none, np.arange(6), np.arange(count), codes=codes)
    model, ctx, _, variables = build(data, causal=causal, beams=8)
    everyone = np.arange(6)
    block = queries.blocks(everyone, 6, 6, None, train, train, queries.windows(train, everyone, 4))
    query = jax.tree.map(lambda x: jnp.asarray(x[0]), block)
    scores = scores_of(model, variables, ctx, query)
    rep = ctx.graphs["trie"]
    rank = jax.jit(lambda v, k: model.apply(v, rep, query, k, method="rank"), static_argnums=1)
    items, found = rank(variables, count)
    for user in range(6):
        known = set(train.item[train.user == user].tolist())
        wanted = [i for i in np.argsort(-scores[user], kind="stable") if i not in known]
        np.testing.assert_array_equal(items[user], wanted + [-1] * len(known))
        np.testing.assert_allclose(found[user, : len(wanted)], scores[user, wanted], rtol=2e-5)
    narrow, found = rank(variables, 5)
    assert ((narrow >= 0) & (narrow < count)).all()
    np.testing.assert_allclose(found, np.take_along_axis(scores, narrow, 1), rtol=2e-5)
    # Over all codes the likelihood sums to one, over the catalogue to less.
    assert (np.exp(scores).sum(axis=1) < 1).all()


def test_likelihoods_of_all_codes_sum_to_one():
    codes = np.stack(np.unravel_index(np.arange(6), (3, 2)), 1).astype(np.int32)
    data = dataset(codes)
    model, ctx, _, variables = build(data)
    scores = scores_of(model, variables, ctx, ask(data))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)


def test_packing_changes_nothing():
    data = dataset()
    model, ctx, batch, variables = build(data, causal=True)

    def loss(variables, blocks):
        def value(self):
            tokens = self.tokens(batch.user, batch.codes)
            tokens = jnp.where(batch.mask.any(axis=1)[:, None], tokens, -1)
            layout = attention.packed(tokens, blocks) if blocks else attention.padded(tokens)
            return self._loss(batch, tokens, layout)

        return model.apply(variables, method=value)

    graded = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    one, gradient = graded(variables, 0)
    for blocks in (3, 4):  # 15 tokens, 7 in a block
        two, other = graded(variables, blocks)
        np.testing.assert_allclose(two, one, rtol=1e-5)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), other, gradient
        )
    # and the loss takes the packed way where that is shorter
    short = batch.replace(blocks=2)
    three = model.apply(variables, short, ctx, method="loss", rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(three[0], one, rtol=1e-5)


def test_a_causal_encoder_serves_every_position_as_if_it_were_the_last():
    data = dataset()
    model, ctx, batch, variables = build(data, causal=True)
    apply = jax.jit(functools.partial(model.apply, method="loss"))
    whole = apply(variables, batch, ctx)[0]
    total = weight = 0.0
    for row in range(3):
        for place in range(3):
            if not batch.mask[row, place]:
                continue
            keep = jnp.arange(3)[None] == place
            one = batch.replace(
                mask=jnp.where(keep, batch.mask, 0) * (jnp.arange(4) == row)[:, None]
            )
            # What comes later must not matter, whether it is hidden or not.
            hidden = jnp.where((jnp.arange(3) > place)[None, :, None], 0, batch.codes)
            cut = one.replace(codes=jnp.where(batch.codes >= 0, hidden, -1))
            values = [apply(variables, b, ctx)[0] for b in (one, cut)]
            np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
            total += float(values[0]) * float(batch.mask[row, place])
            weight += float(batch.mask[row, place])
    np.testing.assert_allclose(whole, total / weight, rtol=1e-5)


def test_tokens_by_hand():
    model, _, batch, variables = build()
    tokens = np.asarray(model.apply(variables, batch.user, batch.codes, method="tokens"))
    assert tokens.shape == (4, 7)  # three items of two codes, and the user
    name = 6 + (2654435761 * np.array([0, 2, 3, 0]) % 2**32 >> 16) % 7
    # The second level's codes come after the three of the first.
    np.testing.assert_array_equal(tokens[0], [name[0], 0, 4, 0, 3, 1, 3])
    np.testing.assert_array_equal(tokens[1], [-1, -1, -1, -1, name[1], 2, 4])
    np.testing.assert_array_equal(tokens[2], [-1, -1, name[2], 0, 3, 2, 3])
    np.testing.assert_array_equal(tokens[3], [-1] * 6 + [name[3]])


def test_measure_reads_the_lists_of_the_beam():
    data = dataset()
    model, ctx, _, variables = build(data, beams=2)
    query = ask(data)
    rep = model.apply(variables, ctx, method="represent")
    measured = semantic.measure(model, variables, rep, query, ("recall", "ndcg"), (1, 3))
    items = np.asarray(model.apply(variables, rep, query, 3, method="rank")[0])
    hits = (items == np.asarray(query.target)).any(axis=1)
    np.testing.assert_array_equal(measured["recall@3"], hits)
    np.testing.assert_array_equal(measured["recall@1"], items[:, 0] == query.target[:, 0])
    masked = {(int(r), int(i)) for r, i in zip(query.masked_row, query.masked_item, strict=True)}
    assert not masked & {(row, int(item)) for row in range(2) for item in items[row]}


def test_dropout_is_for_training_only():
    data = dataset()
    model, ctx, batch, variables = build(data, dropout=0.5)
    loss = lambda key: model.apply(variables, batch, ctx, method="loss", rngs={"dropout": key})[0]
    assert loss(jax.random.key(1)) != loss(jax.random.key(2))
    query = ask(data)
    np.testing.assert_array_equal(
        scores_of(model, variables, ctx, query), scores_of(model, variables, ctx, query)
    )


def test_buckets_of_distances():
    # By hand from T5: 8 exact classes, then 8 + floor(8 log(d / 8) / log 16), at most 15.
    distance = np.array([0, -1, -7, -8, -11, -12, -127, -500, 1, 7, 8, 500])
    np.testing.assert_array_equal(t5.buckets(distance), [0, 1, 7, 8, 8, 9, 15, 15, 17, 23, 24, 31])


# --- parity ---------------------------------------------------------------------------------------

NAMES = {
    "SelfAttention.q": "attention/query/kernel",
    "SelfAttention.k": "attention/key/kernel",
    "SelfAttention.v": "attention/value/kernel",
    "SelfAttention.o": "attention/output/kernel",
    "EncDecAttention.q": "cross/query/kernel",
    "EncDecAttention.k": "cross/key/kernel",
    "EncDecAttention.v": "cross/value/kernel",
    "EncDecAttention.o": "cross/output/kernel",
    "DenseReluDense.wi": "inner/kernel",
    "DenseReluDense.wo": "outer/kernel",
}


def ours(recorded: dict, prefix: str, embedding: float) -> dict:
    """The recorded arrays below ``prefix`` in the shape of our parameters.

    ``embedding`` is what those of the embeddings are multiplied by.
    """
    flat = {}
    for name, value in recorded.items():
        if not name.startswith(prefix):
            continue
        part = name.removeprefix(prefix).removesuffix(".weight")
        if part == "shared":  # row 0 is padding and start at once
            flat["token"], flat["start"] = value[1:] * embedding, value[0] * embedding
            continue
        stack, rest = part.split(".", 1)
        if rest == "final_layer_norm":
            flat[f"{stack}_norm/scale"] = value
            continue
        _, block, _, layer, what = rest.split(".", 4)
        own = f"{stack}_{block}/" + ("own/" if stack == "decoder" else "")
        if what.endswith("relative_attention_bias"):
            flat[f"{stack}_bias"] = value if stack == "encoder" else value[:3]
        elif what == "layer_norm":
            if stack == "decoder" and layer == "1":
                flat[f"{stack}_{block}/cross_norm/scale"] = value
            else:
                norm = "attention_norm" if layer == "0" else "feed_norm"
                flat[f"{own}{norm}/scale"] = value
        else:
            place = f"{stack}_{block}/" if what.startswith("EncDec") else own
            flat[place + NAMES[what]] = value.T
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("kind", ["full", "causal"])
def test_parity_with_public_code(kind):
    """Numbers of XiaoLongtaoo/TIGER, commit 8384d72, which wraps the T5 of transformers 5.23.

    For ``causal`` its encoder was given the mask; its softmax runs over the codes of a level.
    """
    with np.load(FIXTURE) as file:
        recorded = dict(file)
    codes, n, sizes = recorded["codes"].astype(np.int32), recorded["n"], recorded["sizes"]
    size, length = codes.shape[0], codes.shape[1] - 1
    known = np.arange(length)[None] >= length - n[:, None]
    history = np.where(known[..., None], codes[:, :-1], -1)
    targets = np.full_like(history, -1)
    targets[:, -1] = codes[:, -1]
    mask = np.zeros((size, length), np.float32)
    mask[:, -1] = recorded["weight"]
    user = jnp.asarray(recorded["user"], jnp.int32)
    batch = Batch(user, jnp.asarray(history), jnp.asarray(targets), jnp.asarray(mask), size)
    spec = Spec(num_users=1000, num_items=size, max_len=length, codes=tuple(sizes.tolist()))
    model = TIGER(spec, **SMALL, causal=kind == "causal")
    # Our embeddings are those of T5 divided by sqrt(D) = 4.
    params = {"params": jax.tree.map(jnp.asarray, ours(recorded, "p/", 1 / 4))}

    def run(self):
        tokens = self.tokens(batch.user, batch.codes)
        memory = self.encode(tokens, attention.padded(tokens), deterministic=True)
        target = batch.targets[:, -1:]
        states, _ = self.decode(
            self.shifted(target), None, memory, (tokens >= 0)[:, None], deterministic=True
        )
        logs = [self.logs(level, states[:, 0, level]) for level in range(3)]
        chosen = [logs[n][jnp.arange(size), target[:, 0, n]] for n in range(3)]
        return states[:, 0], sum(chosen)

    states, likelihood = model.apply(params, method=run)
    np.testing.assert_allclose(states, recorded[f"{kind}/decoder"], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(likelihood, recorded[f"{kind}/likelihood"], rtol=1e-5)

    @jax.jit
    def loss(params):
        return model.apply(params, batch, None, method="loss", rngs={"dropout": jax.random.key(0)})[
            0
        ]

    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(value, recorded[f"{kind}/loss"], rtol=1e-5)
    wanted = traverse_util.flatten_dict(ours(recorded, f"{kind}/g/", 4), sep="/")
    found = traverse_util.flatten_dict(gradient["params"], sep="/")
    assert set(found) == set(wanted)
    for name, other in wanted.items():
        np.testing.assert_allclose(
            found[name], other, rtol=1e-4, atol=1e-5 * np.abs(other).max(), err_msg=name
        )
