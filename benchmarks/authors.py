"""The authors' own PyTorch code, from checkouts that the user has, on our data.

Only ``benchmarks/originals.py`` imports it, in a process of its own: the checkout comes first on
the path, what newer libraries dropped is put back, moving to a GPU does nothing, and modules that
are missing are stood in for. An adapter builds the authors' model with the hyper-parameters of our
configuration and says what the loss of a batch is, as their trainer does. Needs ``torch``.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import mmrec

STEPS = 4  # of a turn; the first stands for itself, the others for the rest of the epoch


@dataclasses.dataclass
class Original:
    """What is timed.

    Attributes:
      model: theirs.
      loss: of the columns of a batch; a tuple is added up.
      start: what they do before an epoch.
      draw: makes a batch; users, items and negatives if None.
      optimizer: of the learned parameters.
    """

    model: nn.Module
    loss: Callable[..., Any]
    start: Callable[[], Any] = lambda: None
    draw: Callable[[np.random.Generator], tuple] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam


def turns(method: str, checkout: Path, config, data) -> Callable[[int], float]:
    """A callable that does ``STEPS`` steps and tells the seconds of an epoch of so many."""
    sys.path.insert(0, str(checkout))
    mmrec.mend()
    torch.Tensor.cuda = nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    original = globals()[f"_{method}"](config, data)
    original.model.train()
    learned = [p for p in original.model.parameters() if p.requires_grad]
    optimizer = original.optimizer(learned, lr=config.optim.lr)
    rng = np.random.default_rng(0)
    draw = original.draw or functools.partial(_pairs, data, config.train.batch_size)
    batches = [draw(rng) for _ in range(STEPS)]

    def step(batch) -> None:
        optimizer.zero_grad()
        loss = original.loss(*batch)
        loss = sum(loss) if isinstance(loss, tuple) else loss
        loss.backward()
        optimizer.step()
        loss.item()

    def turn(steps: int) -> float:
        began = time.perf_counter()
        original.start()
        step(batches[0])
        second = time.perf_counter()
        for batch in batches[1:]:
            step(batch)
        others = (time.perf_counter() - second) / (STEPS - 1)
        return second - began + (steps - 1) * others

    return turn


# Forks of MMRec

_FORK = (
    "embedding_size=dim feat_embed_dim=dim knn_k=knn_k reg_weight=reg_weight n_ui_layers=layers "
    "n_layers=item_layers n_mm_layers=item_layers cl_loss=contrast_weight dropout=dropout "
)
_LOADED = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "NEG_PREFIX": "negative_",
    "dataset": "",
    "multimodal_data_dir": "",
    "vision_feature_file": "image.npy",
    "text_feature_file": "text.npy",
}


def _fork(config, data, module: str, name: str, renamed: str = "", **more) -> Original:
    """Class ``name`` of a checkout that is laid out as MMRec."""
    add = lambda x, index, dim=0, dim_size=None: torch.zeros(dim_size).index_add_(0, index, x)
    _stand_in("torch_scatter", scatter_add=add)
    for modality, features in data.features.items():
        np.save(f"{modality}.npy", features)
    settings = collections.defaultdict(lambda: None, vars(_named(config, _FORK + renamed)))
    settings |= _LOADED | {
        "is_multimodal_model": bool(data.features),
        "data_path": f"{Path.cwd()}/",
    }
    settings |= {"device": torch.device("cpu"), "train_batch_size": config.train.batch_size} | more
    loader = argparse.Namespace(
        inter_matrix=lambda form: _interactions(data).asformat(form),
        get_user_num=lambda: data.spec.num_users,
        get_item_num=lambda: data.spec.num_items,
    )
    loader.dataset = loader
    model = getattr(importlib.import_module(f"models.{module}"), name)(settings, loader)
    return Original(model, lambda *batch: model.calculate_loss(batch), model.pre_epoch_processing)


def _layergcn(config, data) -> Original:
    for name in ("common", "common.abstract_recommender", "common.loss"):  # it expects them deeper
        sys.modules[f"models.{name}"] = importlib.import_module(name)
    return _fork(config, data, "layergcn", "LayerGCN", "n_layers=layers")


def _lattice(config, data) -> Original:
    sizes = [config.model.dim] * config.model.layers
    more = {"cf_model": "lightgcn", "weight_size": sizes}
    return _fork(config, data, "lattice", "LATTICE", "lambda_coeff=original_weight", **more)


def _mgcn(config, data) -> Original:
    return _fork(config, data, "mgcn", "MGCN")


def _mambarec(config, data) -> Original:
    renamed = "mmd_weight=mmd_weight mmd_kernel_bandwidth=bandwidth reduction_factor=reduction"
    return _fork(config, data, "mambarec", "MambaRec", renamed)


def _cm3(config, data) -> Original:
    renamed = "gamma=uniformity_weight min_sim=min_similarity max_sim=max_similarity "
    share = dict(config.model.modality_weights)["image"]
    renamed += "alpha=concentration"
    original = _fork(config, data, "cm3", "CM3", renamed, mm_image_weight=share)
    # Moving it to a GPU makes it an ordinary tensor, which is what their forward pass assigns.
    del original.model.result_embed
    return original


def _lirdrec(config, data) -> Original:
    dct = lambda x, norm: torch.from_numpy(scipy.fft.dct(x.numpy(), norm=norm, axis=-1))
    _stand_in("torch_dct", dct=dct)
    share = dict(config.model.modality_weights)["image"]
    renamed = "decay_base=decay_base decay_weight=network_share"
    return _fork(config, data, "lirdrec", "LIRDRec", renamed, mm_image_weight=share)


def _alignrec(config, data) -> Original:
    data = dataclasses.replace(data, features={"image": _side_by_side(data)})
    renamed = "sim_weight=similarity_weight ui_cosine_loss_weight=cosine_weight"
    more = {"text_feature_file": "none", "ui_cosine_loss": True, "side_emb_div": 0}
    return _fork(config, data, "alignrec", "ALIGNREC", renamed, **more)


# Others


def _ngcf(config, data) -> Original:
    fields, adjacency = config.model, _bipartite(data)
    args = _named(config, "embed_size=dim", device="cpu", batch_size=config.train.batch_size)
    args.node_dropout, args.mess_dropout = [0.0], [fields.dropout] * len(fields.hidden)
    args.layer_size, args.regs = str(list(fields.hidden)), str([fields.reg_weight])
    adjacency = adjacency + sp.eye(adjacency.shape[0])
    norm = sp.diags(1 / _degrees(adjacency)) @ adjacency
    made = importlib.import_module("NGCF").NGCF
    model = made(data.spec.num_users, data.spec.num_items, norm, args)
    loss = lambda *batch: model.create_bpr_loss(*model(*batch, drop_flag=False))[0]
    return Original(model, loss)


def _simgcl(config, data) -> Original:
    _stand_in("base.graph_recommender", GraphRecommender=object)
    _stand_in("util.sampler", next_batch_pairwise=None)
    module, losses = map(importlib.import_module, ("model.graph.SimGCL", "util.loss_torch"))
    fields, graph = config.model, argparse.Namespace(norm_adj=_normalised(data))
    graph.user_num, graph.item_num = data.spec.num_users, data.spec.num_items
    model = module.SimGCL_Encoder(graph, fields.dim, fields.noise, fields.layers)
    trainer = object.__new__(module.SimGCL)
    trainer.model = model

    def loss(user, item, negative):
        users, items = model()
        rows = users[user], items[item], items[negative]
        contrast = fields.contrast_weight * trainer.cal_cl_loss([user, item])
        decay = losses.l2_reg_loss(fields.reg_weight, *rows[:2])
        return losses.bpr_loss(*rows) + decay + contrast

    return Original(model, loss)


class _SparseTensor:
    """What DCCF asks of ``torch_sparse.SparseTensor``: the sums of its rows."""

    def __init__(self, row, col, value, sparse_sizes):
        self.row, self.value, self.rows = row, value, sparse_sizes[0]

    def cuda(self) -> _SparseTensor:
        return self

    def sum(self, dim: int) -> Tensor:
        return torch.zeros(self.rows).index_add(0, self.row, self.value)


def _dccf(config, data) -> Original:
    def spmm(index, value, rows, _, matrix):  # gather, weigh and scatter, as torch_sparse does
        source = matrix[index[1]] * value[:, None]
        target = index[0][:, None].expand_as(source)
        return torch.zeros(rows, matrix.shape[1]).scatter_add_(0, target, source)

    def spspmm(index, value, other_index, other_value, rows, inner, columns):
        left = torch.sparse_coo_tensor(index, value, (rows, inner))
        right = torch.sparse_coo_tensor(other_index, other_value, (inner, columns))
        product = torch.sparse.mm(left, right).coalesce()
        return product.indices(), product.values()

    _stand_in("torch_sparse", SparseTensor=_SparseTensor, spmm=spmm, spspmm=spspmm)
    adjacency = _bipartite(data)
    edges = adjacency.tocoo()
    graph = {**_sizes(data), "plain_adj": adjacency}
    graph |= {"all_h_list": list(edges.row), "all_t_list": list(edges.col)}
    renamed = "embed_size=dim n_layers=layers n_intents=intents temp=temperature "
    renamed += "emb_reg=reg_weight cen_reg=intent_reg_weight ssl_reg=contrast_weight"
    args = _named(config, renamed, batch_size=config.train.batch_size)
    model = importlib.import_module("model").DCCF(graph, args)
    return Original(model, lambda *batch: model(*(column.numpy() for column in batch)))


def _alpharec(config, data) -> Original:
    general = Path(sys.path[0]) / "models" / "General"  # importing its packages compiles code
    for name, path in (("general", general), ("general.base", general / "base")):
        _stand_in(name).__path__ = [str(path)]
    _stand_in("reckit", randint_choice=None)
    _stand_in("parse", parse_args=None)
    _stand_in("general.base.utils")
    _stand_in("general.base.abstract_RS", AbstractRS=object)
    _stand_in("general.base.evaluator", ProxyEvaluator=None)
    module = importlib.import_module("general.AlphaRec")
    os.makedirs("data/item_info")
    np.save("data/item_info/item_cf_embeds_large3_array.npy", _side_by_side(data))
    fields, size = config.model, config.train.batch_size
    args = _named(config, "tau=temperature hidden_size=dim n_layers=layers", batch_size=size)
    vars(args).update(lm_model="v3", data_path="", dataset="data", model_version="mlp", cuda="cpu")
    vars(args).update(model_name="AlphaRec", regs=0, train_norm=True, pred_norm=True)
    loaded = object.__new__(module.AlphaRec_Data)
    vars(loaded).update(_sizes(data))
    loaded.trainUser, loaded.trainItem = data.train.user, data.train.item
    loaded.path, loaded.device, loaded.Graph = "data", torch.device("cpu"), None
    matrix = _interactions(data)
    loaded.train_user_list = dict(enumerate(np.split(matrix.indices, matrix.indptr[1:-1])))
    loaded.add_special_model_attr(args)

    def draw(rng):
        negatives = rng.integers(data.spec.num_items, size=(size, fields.negatives))
        return *_pairs(data, size, rng)[:2], torch.from_numpy(negatives)

    model = module.AlphaRec(args, loaded)
    return Original(model, model, draw=draw)


def _mmhcl(config, data) -> Original:
    fields, size = config.model, config.train.batch_size
    sys.argv = ["main.py", f"--UI_layers={fields.layers}", f"--User_layers={fields.user_layers}"]
    sys.argv += [f"--Item_layers={fields.item_layers}", f"--temperature={fields.temperature}"]
    made = importlib.import_module("Models").MMHCL
    model = made(data.spec.num_users, data.spec.num_items, fields.dim)
    matrix = _interactions(data)
    users = matrix @ matrix.T
    users.setdiag(0)
    users.eliminate_zeros()
    users = sp.diags(1 / np.maximum(_degrees(users), 1)) @ users
    edges = sp.hstack([_nearest(x, fields.knn_k) for x in data.features.values()]).tocsr()
    items = edges @ edges.T
    root = sp.diags(_degrees(items) ** -0.5)
    graphs = [_tensor(x) for x in (_normalised(data), root @ items @ root, users)]

    def loss(user, item, negative):
        all_users, all_items, similar_items, similar_users = model(*graphs)
        rows = all_users[user], all_items[item], all_items[negative]
        squares = sum((row**2).sum() for row in rows) / 2 / size
        margin = (rows[0] * rows[1]).sum(1) - (rows[0] * rows[2]).sum(1)
        contrast = fields.item_weight * model.batched_contrastive_loss(all_items, similar_items)
        contrast += fields.user_weight * model.batched_contrastive_loss(all_users, similar_users)
        return fields.reg_weight * squares - F.logsigmoid(margin).mean() + contrast

    return Original(model, loss)


def _rearm(config, data) -> Original:
    helper, made = importlib.import_module("utils.helper"), importlib.import_module("model").REARM
    fields, users = config.model, data.spec.num_users
    edges = np.stack([data.train.user, data.train.item]).astype(np.int64)
    loaded = argparse.Namespace(**_sizes(data), train_dataset=edges)
    loaded.sparse_inter_matrix = lambda form: helper.cal_sparse_inter_matrix(loaded, form)
    matrix = _interactions(data)
    mean = sp.diags(1 / np.maximum(_degrees(matrix), 1)) @ matrix
    graphs: dict[str, list[Tensor]] = {"u": [], "i": []}
    for letter, features in zip("vt", (data.features["image"], data.features["text"]), strict=True):
        own, liked = torch.from_numpy(features), torch.from_numpy((mean @ features).astype("f"))
        vars(loaded).update({f"i_{letter}_feat": own, f"u_{letter}_interest": liked})
        graphs["u"].append(helper.get_knn_adj_mat(liked, fields.user_k, "cpu"))
        graphs["i"].append(helper.get_knn_adj_mat(own, fields.item_k, "cpu"))
    for side, rows, shares in (
        ("user", matrix, fields.user_shares),
        ("item", matrix.T.tocsr(), fields.item_shares),
    ):
        share, (image, text) = dict(shares)["image"], graphs[side[0]]
        common = (rows @ rows.T).toarray()  # theirs intersects each pair of sets, for an hour
        np.fill_diagonal(common, 0)
        co_occurring = helper.creat_dict_graph(torch.from_numpy(common), len(common))
        order = np.argsort(-_degrees(rows), kind="stable")
        most = {f"topK_{side}s": order, f"topK_{side}s_counts": _degrees(rows)[order]}
        vars(loaded).update({name: values.tolist() for name, values in most.items()})
        setattr(loaded, f"{side[0]}_mm_adj", share * image + (1.0 - share) * text)
        setattr(loaded, f"dict_{side}_co_occ_graph", co_occurring)
    renamed = "embedding_dim=dim s_drop=self_dropout m_drop=cross_dropout n_layers=layers "
    renamed += "num_user_co=user_k num_item_co=item_k n_ii_layers=item_layers "
    renamed += "n_uu_layers=user_layers rank=meta_rank uu_co_weight=user_co_weight "
    renamed += "ii_co_weight=item_co_weight cl_tmp=temperature cl_loss_weight=contrast_weight "
    renamed += "diff_loss_weight=orthogonal_weight"
    decay, cpu = config.optim.weight_decay, torch.device("cpu")
    args = _named(config, renamed, user_aggr_mode="softmax", device=cpu, reg_weight=decay)
    model = made(args, loaded)

    def loss(user, item, negative):
        nodes = torch.stack([item, negative], 1) + users
        return model.loss(torch.stack([user, user], 1), nodes)[0]

    return Original(model, loss, optimizer=functools.partial(torch.optim.AdamW, weight_decay=decay))


def _dgvae(config, data) -> Original:
    torch.Tensor.get_device = lambda self: "cpu"  # type: ignore[method-assign,assignment]
    graphs, made = importlib.import_module("dataset"), importlib.import_module("dgvae").DGVAE
    fields, matrix = config.model, _interactions(data)
    counts = data.features[fields.words[0]]
    similar = lambda x: graphs.get_knn_adj_mat(fields.knn_k, torch.from_numpy(x))
    weighted = [share * similar(data.features[name]) for name, share in fields.modality_weights]
    adjacency = functools.reduce(torch.add, weighted)
    renamed = "emb_size=dim dropout=dropout num_prototypes=prototypes tau=temperature std=noise "
    renamed += "text_std=noise lambda_text=text_weight lambda_reg=mutual_weight "
    renamed += "rating_anneal_cap=anneal_cap text_anneal_cap=anneal_cap "
    renamed += "rating_total_anneal_steps=anneal_steps text_total_anneal_steps=anneal_steps"
    words, settings = counts.shape[1], vars(_named(config, renamed))
    model = made(
        item_adj=adjacency, num_items=len(counts), num_words=words, layers=[200], **settings
    )

    def draw(rng):
        rows = matrix[rng.permutation(matrix.shape[0])[: config.train.batch_size]]
        weights = F.normalize(torch.from_numpy(rows @ counts), dim=1)
        return torch.from_numpy(rows.toarray()), weights

    return Original(model, model.calculate_loss, draw=draw)


# What they share


def _named(config, renamed: str, **more) -> argparse.Namespace:
    """Our fields under their names, given as ``theirs=ours``; 0 where we have none."""
    pairs = (pair.split("=") for pair in renamed.split())
    values = {theirs: config.model.get(ours, 0) for theirs, ours in pairs}
    return argparse.Namespace(**values, **more)


def _stand_in(name: str, **content) -> types.ModuleType:
    """Puts a module of this name and content in the place of a missing one."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)
    return sys.modules[name]


def _pairs(data, size: int, rng) -> tuple[Tensor, ...]:
    """Users, items and negatives of a batch."""
    chosen = rng.integers(len(data.train), size=size)
    negative = rng.integers(data.spec.num_items, size=size)
    columns = data.train.user[chosen], data.train.item[chosen], negative
    return tuple(torch.from_numpy(column.astype(np.int64)) for column in columns)


def _side_by_side(data) -> np.ndarray:
    return np.concatenate(list(data.features.values()), axis=1)


def _sizes(data) -> dict[str, int]:
    return {"n_users": data.spec.num_users, "n_items": data.spec.num_items}


def _interactions(data) -> Any:
    """Ones, float32 [U, I]."""
    ones = np.ones(len(data.train), np.float32)
    shape = data.spec.num_users, data.spec.num_items
    return sp.csr_matrix((ones, (data.train.user, data.train.item)), shape)


def _bipartite(data) -> Any:
    matrix = _interactions(data)
    return sp.bmat([[None, matrix], [matrix.T, None]], format="csr")


def _degrees(matrix) -> np.ndarray:
    return np.asarray(matrix.sum(1)).ravel()


def _normalised(data) -> Any:
    adjacency = _bipartite(data)
    root = sp.diags(np.maximum(_degrees(adjacency), 1) ** -0.5)
    return (root @ adjacency @ root).tocsr()


def _nearest(features: np.ndarray, k: int) -> Any:
    """Ones at the k most similar rows of each row, [I, I]."""
    unit = F.normalize(torch.from_numpy(features), dim=1)
    column = (unit @ unit.T).topk(k).indices.flatten().numpy()
    row = np.repeat(np.arange(len(features)), k)
    return sp.csr_matrix((np.ones(len(row), np.float32), (row, column)), (len(features),) * 2)


def _tensor(matrix) -> Tensor:
    """A scipy matrix in coordinate format."""
    matrix = matrix.tocoo()
    index = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    return torch.sparse_coo_tensor(index, values, matrix.shape)
