"""DGVAE against the authors' code, and its parts by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import made
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from mmrec_jax import macrid
from mmrec_jax.models.multimodal import dgvae
from mmrec_jax.models.multimodal.dgvae import DGVAE
from mmrec_jax.ops import item_words
from mmrec_jax.tasks import rows
from mmrec_jax.types import Dataset, Query, UserError

FIXTURE = Path(__file__).parent / "fixtures" / "dgvae.npz"
TOLERANCE = 2e-5  # of the largest entry; both sides compute in float32
PARTS = {
    "thing": "item_embeddings.weight",
    "prototype": "prototype_embeddings.weight",
    "kernel": "encoder.weight",
    "bias": "encoder.bias",
}
PARAMS = {
    f"{ours}/{part}": f"{theirs}.{name}"
    for ours, theirs in {"rating": "cf_network", "text": "text_network"}.items()
    for part, name in PARTS.items()
}


def _batch(data: Dataset, users: np.ndarray, weight: np.ndarray) -> rows.Batch:
    """Every user of ``data`` has an item, so that places are users."""
    arrays = rows.prepare(data, ConfigDict({"train": {"batch_size": len(users)}}))
    weight = jnp.asarray(weight, jnp.float32)
    return rows.batch(jax.random.key(0), arrays, jnp.asarray(users, jnp.int32), weight)


def _query(batch: rows.Batch) -> Query:
    empty, pad = jnp.zeros((len(batch.user), 0), jnp.int32), jnp.zeros(0, jnp.int32)
    return Query(batch.user, batch.weight > 0, empty, batch.row, batch.item, pad, pad, empty)


class Side:
    """Our half, with the recorded weights, and one compiled program for all that is compared."""

    def __init__(self):
        with np.load(FIXTURE) as file:
            self.recorded = r = dict(file)
        names = {"temperature": "tau", "noise": "std", "knn_k": "knn_k"}
        names |= {"text_weight": "lambda_text", "mutual_weight": "lambda_reg"}
        names |= {"anneal_cap": "rating_anneal_cap", "anneal_steps": "total_anneal_steps"}
        hyper = {ours: r[f"hyper/{theirs}"].item() for ours, theirs in names.items()}
        share = r["hyper/txt_weight"].item()
        hyper |= {"modality_weights": (("image", 1 - share), ("text", share))}
        hyper |= {"words": ("words",), "prototypes": r["normal"].shape[1], "dropout": 0.0}
        features = {n: r[f"features/{n}"] for n in ("image", "text", "words")}
        self.data = data = made.dataset(
            r["edge_user"], r["edge_item"], r["num_users"], features=features
        )
        self.model = model = DGVAE(data.spec, dim=int(r["dim"]), **hyper)
        self.ctx = DGVAE.context(data, **hyper)
        # The last two examples only fill the batch up.
        users = np.concatenate([r["batch"], r["batch"][:2]])
        self.batch = _batch(data, users, np.arange(len(users)) < len(r["batch"]))
        flat = {tuple(n.split("/")): self.theirs("param", n) for n in PARAMS}
        self.params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(flat))
        gumbel = [jnp.asarray(r[f"gumbel_{n}"]) for n in ("item", "word")]
        normal = [jnp.pad(n, ((0, 0), (0, 2), (0, 0))) for n in r["normal"]]
        steps = {"schedule": {"annealing": {"steps": jnp.int32(1)}}}

        @jax.jit
        def all_of(params, ctx, key):
            def loss(p, method, *args, **rest):
                variables = {"params": p, **steps}
                args = (self.batch, ctx, *args)
                return model.apply(variables, *args, method=method, mutable=["schedule"], **rest)

            fixed = lambda p: loss(p, "bound", gumbel, normal)[0]
            run = lambda *args, method: model.apply({"params": params}, *args, method=method)
            rep = run(ctx, method="represent")
            return {
                "bound": jax.value_and_grad(fixed, has_aux=True)(params),
                "score": run(rep, _query(self.batch), method="score"),
                "words": run(rep, _query(self.batch), method="word_scores"),
                "explain": run(rep, ctx, method="explain"),
                "drawn": loss(params, "loss", rngs={"dropout": key}),
            }

        self.got = all_of(self.params, self.ctx, jax.random.key(1))
        self.other = all_of(self.params, self.ctx, jax.random.key(2))

    def theirs(self, kind: str, ours: str) -> np.ndarray:
        value = self.recorded[f"{kind}/{PARAMS[ours]}"]
        return value.T if ours.endswith("kernel") else value


@pytest.fixture(scope="module")
def side() -> Side:
    return Side()


def test_agrees_with_the_authors_code(side):
    """enoche/DGVAE 460a368, no dropout, noise as given; ours has padding in the batch besides."""
    r = side.recorded
    (loss, parts), grads = side.got["bound"]
    pairs = {"loss": (loss, r["loss"]), "score": (side.got["score"][:-2], r["score"])}
    pairs["words"] = (side.got["words"][:-2], r["words"])
    assert set(parts) == {k.removeprefix("loss/") for k in r if k.startswith("loss/")}
    pairs |= {f"part {n}": (parts[n], r[f"loss/{n}"]) for n in parts}
    flat = traverse_util.flatten_dict(grads, sep="/")
    assert set(flat) == set(PARAMS)
    assert set(PARAMS.values()) == {k.removeprefix("param/") for k in r if k.startswith("param/")}
    pairs |= {f"gradient of {n}": (value, side.theirs("grad", n)) for n, value in flat.items()}
    difference = {name: made.difference(*pair) for name, pair in pairs.items()}
    worst = max(difference, key=difference.__getitem__)
    print(f"\nDGVAE: {difference[worst]:.1e} ({worst})")
    assert difference[worst] < TOLERANCE, difference


def test_words_of_users_are_those_of_scikit_learn(side):
    """TfidfTransformer over the users' added counts."""
    chosen = np.zeros((side.model.spec.num_users, side.model.spec.num_items))
    chosen[side.data.train.user, side.data.train.item] = 1
    words = chosen @ np.asarray(side.ctx.tables["words"])
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    np.testing.assert_allclose(words, side.recorded["user_words"], atol=1e-6)


def test_noise_is_drawn_and_steps_are_counted(side):
    ((total, parts), changed), ((_, other), _) = side.got["drawn"], side.other["drawn"]
    assert changed["schedule"]["annealing"]["steps"] == 2
    assert all(parts[name] != other[name] for name in parts)
    divergence = parts["rating_divergence"] + 0.6 * parts["text_divergence"]
    rest = parts["rating"] + 0.6 * parts["text"] + 0.8 * parts["mutual"]
    np.testing.assert_allclose(total, rest + 0.25 * divergence, rtol=1e-5)  # step 1 of 4


def test_explains_prototypes_by_their_share_of_words(side):
    told, params = side.got["explain"], side.params["text"]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit(params["thing"]) @ unit(params["prototype"]).T
    share = np.exp(cosine / side.model.temperature)
    share /= share.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(told["prototype_word_share"], share.mean(0), rtol=1e-4)
    leading = share * np.asarray(side.ctx.tables["words"]).sum(0)[:, None]
    np.testing.assert_array_equal(told["prototype_words"], np.argsort(-leading.T)[:, :8])
    np.testing.assert_allclose(told["prototype_items"].sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(np.diag(told["prototype_cosine"]), 1, rtol=1e-5)


def test_words_by_hand():
    # Item 2 has no row, what stands there counts for nothing. The least of column 0 is -1.
    features = {"text": np.array([[-1.0, 2], [1, 0], [9, 9]], np.float32)}
    present = {"text": np.array([True, True, False])}
    user, item = np.array([0, 0, 1, 2], np.int32), np.array([0, 0, 1, 0], np.int32)
    words = item_words.weights(
        made.dataset(user, item, 3, features=features, present=present), ("text",)
    )
    once, twice = 1 + np.log(4 / 2), 1 + np.log(4 / 3)  # users 0 and 2 have item 0's word
    np.testing.assert_allclose(words, [[0, 2 * twice], [2 * once, 0], [0, 0]], rtol=1e-6)


def test_attention_by_hand():
    value = jnp.array([[[1.0, 0]], [[0, 2]]])  # two parts of one user
    query = jnp.array([[[1.0, 0]], [[1, 1]]])
    # Distances of part 0: 0 and 3, of part 1: 1 and 2.
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    want = [[np.tanh(1) * sigmoid(1.5), 0], [np.tanh(1) * sigmoid(0.5), 0]]
    want[1][1] = 2 * np.tanh(2) * sigmoid(-0.5)
    np.testing.assert_allclose(dgvae.attend(value, query)[:, 0], want, rtol=1e-6)


def test_divergence_and_mutual_information_by_hand():
    log_variance = jnp.log(jnp.array([[[1.0, 2]], [[1, 1]]]))
    np.testing.assert_allclose(macrid.divergence(log_variance), [(1 - np.log(2)) / 2], rtol=1e-6)
    first, second = jnp.array([[[1.0, 0]], [[0, 2]]]), jnp.array([[[3.0, 1]], [[1, 0]]])
    soft = lambda x: np.log1p(np.exp(x))  # like parts: 3 and 0; unlike ones: 1 and 2
    want = (soft(-3) + soft(0)) / 2 + (soft(1) + soft(2)) / 2
    np.testing.assert_allclose(dgvae.mutual(first, second), [want], rtol=1e-6)


@pytest.mark.parametrize("names", [("audio",), ("image", "text", "audio")])
def test_any_number_of_modalities_with_missing_rows(names):
    data = made.circle(names, [(n, 2) for n in names])
    noisy = {n: f.copy() for n, f in data.features.items()}
    for features in noisy.values():
        features[2] = 100.0
    noisy = dataclasses.replace(data, features=noisy)
    contexts = [DGVAE.context(each, knn_k=3) for each in (data, noisy)]
    jax.tree.map(np.testing.assert_array_equal, *contexts)
    assert not contexts[0].tables["words"][2].any()
    model, batch = DGVAE(data.spec, dim=4), _batch(data, np.arange(5), np.ones(5))
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = lambda ctx: model.init_with_output(keys, batch, ctx, method="loss")
    (loss, _), variables = jax.jit(init)(contexts[0])
    assert np.isfinite(loss)
    assert variables["params"]["text"]["thing"].shape == (sum(made.WIDTHS[n] for n in names), 4)


@pytest.mark.parametrize(
    ("names", "hyper", "says"),
    [
        ((), {}, "needs item features"),
        (("image",), {"prototypes": 1}, "model.prototypes is 1"),
        (("image",), {"words": ("text",)}, "model.words names text, but .* image"),
    ],
)
def test_says_what_is_wrong(names, hyper, says):
    edges = np.arange(3, dtype=np.int32)
    data = made.dataset(edges, edges, 3, features={n: np.eye(3, dtype=np.float32) for n in names})
    with pytest.raises(UserError, match=says):
        DGVAE.context(data, **hyper)
