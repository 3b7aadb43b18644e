"""Training and its parts in PyTorch: as the field usually writes it, and tuned.

Needs ``torch``, numpy and nothing of this package; only ``benchmarks/speed.py`` imports it. Every
function takes numpy arrays and returns a model, or a callable that does one unit of work (an
epoch, a product) and waits for its end. "Ordinary" follows what MMRec does, step for step, in
code of our own: coordinate-format products, everything projected and propagated in every step,
sampling on the host, dense Adam, a loss read back after each batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Graphs


def coo(row, col, weight, shape: tuple[int, int]) -> Tensor:
    """A sparse tensor as MMRec builds it: not coalesced, which products find faster."""
    index = torch.from_numpy(np.stack([row, col]).astype(np.int64))
    values = torch.from_numpy(np.asarray(weight, np.float32))
    return torch.sparse_coo_tensor(index, values, shape, check_invariants=False)


def bipartite(user, item, num_users: int, num_items: int) -> Tensor:
    """The symmetrically normalised user-item graph [N, N], by rows."""
    node = item.astype(np.int64) + num_users
    row, col = np.concatenate([user, node]), np.concatenate([node, user])
    root = (np.bincount(row, minlength=num_users + num_items) + 1e-7) ** -0.5
    order = np.lexsort((col, row))
    row, col = row[order], col[order]
    return coo(row, col, root[row] * root[col], (len(root), len(root)))


def propagate_coo(row, col, weight, n: int, dim: int, layers: int, device: str = "cpu") -> Callable:
    """``A^layers x`` and its gradient by x [n, dim] for a given cotangent, by autograd.

    The callable returns both, as tensors; :func:`propagate_inputs` gives x and the cotangent.
    """
    graph = coo(row, col, weight, (n, n)).to(device)
    x, cotangent = (torch.tensor(a, device=device) for a in propagate_inputs(n, dim))
    x.requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        x.grad, y = None, x
        for _ in range(layers):
            y = torch.sparse.mm(graph, y)
        y.backward(cotangent)
        _wait(x)
        return y.detach(), x.grad

    return run


def propagate_inputs(n: int, dim: int) -> np.ndarray:
    """The vectors that :func:`propagate_coo` propagates forward and backward, [2, n, dim]."""
    return np.random.default_rng(0).standard_normal((2, n, dim), dtype=np.float32)


def item_graph_dense(features: np.ndarray, k: int = 10, device: str = "cpu") -> Callable:
    """The k most similar items of each by cosine, from the whole matrix [I, I] of similarities."""
    given = torch.tensor(features, device=device)

    def run() -> Tensor:
        unit = given / given.norm(dim=1, keepdim=True)
        best = torch.topk(unit @ unit.T, k).indices
        _wait(best)
        return best

    return run


def _wait(on: Tensor) -> None:
    if on.is_cuda:
        torch.cuda.synchronize(on.device)


# Pairwise models: ``represent`` gives user and item vectors, ``loss`` that of one batch.


class Pairwise(nn.Module):
    """Tables of users and items; ``start`` is called before each epoch."""

    def __init__(self, num_users: int, num_items: int, user_dim: int, item_dim: int):
        super().__init__()
        self.user = nn.Embedding(num_users, user_dim)
        self.item = nn.Embedding(num_items, item_dim)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)

    def start(self) -> None:
        pass

    def propagate(self, graph: Tensor, layers: int) -> tuple[Tensor, Tensor]:
        """Mean over layers of users and items."""
        nodes = torch.cat([self.user.weight, self.item.weight])
        every = [nodes]
        for _ in range(layers):
            nodes = torch.sparse.mm(graph, nodes)
            every.append(nodes)
        mean = torch.stack(every, dim=1).mean(dim=1)
        return mean.split([self.user.num_embeddings, self.item.num_embeddings])


class LightGCN(Pairwise):
    """LightGCN with MMRec's regulariser."""

    def __init__(self, user, item, num_users, num_items, *, dim=64, layers=2, reg_weight=1e-3):
        super().__init__(num_users, num_items, dim, dim)
        self.layers, self.reg_weight = layers, reg_weight
        self.register_buffer("graph", bipartite(user, item, num_users, num_items), persistent=False)

    def represent(self) -> tuple[Tensor, Tensor]:
        return self.propagate(self.graph, self.layers)

    def loss(self, user: Tensor, item: Tensor, negative: Tensor) -> Tensor:
        users, items = self.represent()
        own = self.user.weight[user], self.item.weight[item], self.item.weight[negative]
        return _bpr(users[user], items[item], items[negative]) + self.reg_weight * _norms(*own)


class TunedLightGCN(nn.Module):
    """The same, with compressed rows, a gradient that uses their symmetry, and one gather each.

    ``int32`` narrows the row numbers, which PyTorch multiplies faster but makes 64 bits wide.
    """

    def __init__(
        self, user, item, num_users, num_items, *, dim=64, layers=2, reg_weight=1e-3, int32=False
    ):
        super().__init__()
        self.layers, self.reg_weight, self.num_users = layers, reg_weight, num_users
        self.nodes = nn.Parameter(torch.empty(num_users + num_items, dim))
        nn.init.xavier_uniform_(self.nodes)
        csr = bipartite(user, item, num_users, num_items).coalesce().to_sparse_csr()
        narrow = (lambda index: index.int()) if int32 else (lambda index: index)
        parts = narrow(csr.crow_indices()), narrow(csr.col_indices()), csr.values()
        graph = torch.sparse_csr_tensor(*parts, csr.shape, check_invariants=False)
        self.register_buffer("graph", graph, persistent=False)

    def start(self) -> None:
        pass

    def propagate(self) -> Tensor:
        y = self.nodes
        for _ in range(self.layers):
            y = _SymmetricAffine.apply(self.graph, y, self.nodes)
        return y / (self.layers + 1)

    def represent(self) -> tuple[Tensor, Tensor]:
        nodes = self.propagate()
        return nodes[: self.num_users], nodes[self.num_users :]

    def loss(self, user: Tensor, item: Tensor, negative: Tensor) -> Tensor:
        rows = torch.cat([user, item + self.num_users, negative + self.num_users])
        propagated, own = (F.embedding(rows, x).chunk(3) for x in (self.propagate(), self.nodes))
        return _bpr(*propagated) + self.reg_weight * _norms(*own)


class _SymmetricAffine(torch.autograd.Function):
    """``A x + add`` for a symmetric A."""

    @staticmethod
    def forward(ctx, graph: Tensor, x: Tensor, add: Tensor) -> Tensor:
        ctx.graph = graph
        return torch.addmm(add, graph, x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        return None, ctx.graph @ gradient, gradient


class Content(nn.Module):
    """Raw features of one modality, learned if ``finetune``, projected for all items."""

    def __init__(self, features: np.ndarray, dim: int, finetune: bool):
        super().__init__()
        self.raw = nn.Embedding.from_pretrained(torch.tensor(features), freeze=not finetune)
        self.project = nn.Linear(features.shape[1], dim)
        nn.init.xavier_normal_(self.project.weight)

    def forward(self) -> Tensor:
        return self.project(self.raw.weight)


class VBPR(Pairwise):
    """VBPR as in MMRec: one projection of the concatenated features, of all items in every step."""

    def __init__(self, num_users, num_items, features, *, dim=64, reg_weight=1e-2, finetune=False):
        super().__init__(num_users, num_items, 2 * dim, dim)
        self.reg_weight = reg_weight
        self.content = Content(np.concatenate(list(features.values()), axis=1), dim, finetune)

    def represent(self) -> tuple[Tensor, Tensor]:
        return self.user.weight, torch.cat([self.item.weight, self.content()], dim=1)

    def loss(self, user: Tensor, item: Tensor, negative: Tensor) -> Tensor:
        users, items = self.represent()
        rows = users[user], items[item], items[negative]
        return _bpr(*rows) + self.reg_weight * _norms(*rows)


class BM3(Pairwise):
    """BM3 as its authors wrote it in MMRec; the batch's negatives go unused (draw none)."""

    def __init__(
        self, user, item, num_users, num_items, features, *, dim=64, layers=1, dropout=0.3,
        reg_weight=0.1, content_weight=2.0, finetune=True,
    ):  # fmt: skip
        super().__init__(num_users, num_items, dim, dim)
        self.layers, self.dropout = layers, dropout
        self.reg_weight, self.content_weight = reg_weight, content_weight
        self.predictor = nn.Linear(dim, dim)
        self.content = nn.ModuleDict(
            {name: Content(values, dim, finetune) for name, values in features.items()}
        )
        self.register_buffer("graph", bipartite(user, item, num_users, num_items), persistent=False)

    def online(self) -> tuple[Tensor, Tensor]:
        users, items = self.propagate(self.graph, self.layers)
        return users, items + self.item.weight

    def represent(self) -> tuple[Tensor, Tensor]:
        users, items = self.online()
        return self.predictor(users), self.predictor(items)

    def loss(self, user: Tensor, item: Tensor, negative: Tensor | None = None) -> Tensor:
        users, items = self.online()
        target = lambda x: F.dropout(x.detach().clone(), self.dropout)
        user_target, item_target = target(users)[user], target(items)[item]
        total = _distance(self.predictor(users)[user], item_target)
        total = total + _distance(self.predictor(items)[item], user_target)
        for modality in self.content.values():
            projected = modality()
            own = target(projected)[item]
            predicted = self.predictor(projected)[item]
            parts = _distance(predicted, item_target) + _distance(predicted, own)
            total = total + self.content_weight * parts
        reg = (users.norm() + items.norm()) / items.shape[0]
        return total + self.reg_weight * reg


class Freedom(Pairwise):
    """FREEDOM as its authors wrote it in MMRec; ``item_graph`` is (row, col, weight)."""

    def __init__(
        self, user, item, num_users, num_items, features, item_graph, *, dim=64, layers=2,
        item_layers=1, dropout=0.8, reg_weight=1e-3, finetune=True,
    ):  # fmt: skip
        super().__init__(num_users, num_items, dim, dim)
        self.layers, self.item_layers = layers, item_layers
        self.dropout, self.reg_weight = dropout, reg_weight
        self.content = nn.ModuleDict(
            {name: Content(values, dim, finetune) for name, values in features.items()}
        )
        buffer = lambda name, value: self.register_buffer(name, value, persistent=False)
        buffer("full", bipartite(user, item, num_users, num_items))
        buffer("similar", coo(*item_graph, (num_items, num_items)))
        buffer("edges", torch.from_numpy(np.stack([user, item]).astype(np.int64)))
        buffer("chance", self._weights(self.edges))
        self.pruned = self.full

    def start(self) -> None:
        """Draws the edges of this epoch."""
        if self.dropout <= 0:
            self.pruned = self.full
            return
        count = int(self.chance.shape[0] * (1.0 - self.dropout))
        self.prune(torch.multinomial(self.chance, count))

    def prune(self, kept: Tensor) -> None:
        """Trains on the edges numbered ``kept``."""
        edges = self.edges[:, kept]
        weights = self._weights(edges)
        user, node = edges[0], edges[1] + self.user.num_embeddings
        index = torch.stack([torch.cat([user, node]), torch.cat([node, user])])
        self.pruned = torch.sparse_coo_tensor(
            index, weights.repeat(2), self.full.shape, check_invariants=False
        )

    def represent(self, graph: Tensor | None = None) -> tuple[Tensor, Tensor]:
        smooth = self.item.weight
        for _ in range(self.item_layers):
            smooth = torch.sparse.mm(self.similar, smooth)
        users, items = self.propagate(self.full if graph is None else graph, self.layers)
        return users, items + smooth

    def loss(self, user: Tensor, item: Tensor, negative: Tensor) -> Tensor:
        users, items = self.represent(self.pruned)
        chosen = users[user]
        total = _bpr(chosen, items[item], items[negative])
        for modality in self.content.values():
            projected = modality()
            total = total + self.reg_weight * _bpr(chosen, projected[item], projected[negative])
        return total

    def _weights(self, edges: Tensor) -> Tensor:
        """Symmetrically normalised weights of ``edges`` [2, E]."""
        sizes = self.user.num_embeddings, self.item.num_embeddings
        pairs = zip(edges, sizes, strict=True)
        roots = [(torch.bincount(e, minlength=n).float() + 1e-7).rsqrt()[e] for e, n in pairs]
        return roots[0] * roots[1]


def _bpr(user: Tensor, item: Tensor, negative: Tensor) -> Tensor:
    return -F.logsigmoid((user * item).sum(1) - (user * negative).sum(1)).mean()


def _norms(*rows: Tensor) -> Tensor:
    return sum(row.norm() for row in rows) / rows[0].shape[0]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(a, b, dim=-1).mean()


# Epochs


def pairwise_batches(
    user, item, num_items: int, *, batch_size=2048, negatives=True, tuned=False, seed=0
) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """A callable that yields one epoch of batches of users, items and, if wanted, negatives.

    Negatives are drawn again until the user has none of them in training: one by one in Python,
    as MMRec does, or if ``tuned`` for the whole epoch with numpy.
    """
    rng, plain = np.random.default_rng(seed), random.Random(seed)
    user, item = user.astype(np.int64), item.astype(np.int64)
    if tuned:
        known = np.sort(user * num_items + item)
    else:
        ends = np.cumsum(np.bincount(user))[:-1]
        history = [set(row.tolist()) for row in np.split(item[np.argsort(user)], ends)]

    def one_by_one(users) -> np.ndarray:
        drawn = []
        for u in users.tolist():
            candidate = plain.randrange(num_items)
            while candidate in history[u]:
                candidate = plain.randrange(num_items)
            drawn.append(candidate)
        return np.array(drawn)

    def together(users) -> np.ndarray:
        drawn = rng.integers(num_items, size=len(users))
        clash = np.arange(len(users))
        while clash.size:
            key = users[clash] * num_items + drawn[clash]
            place = np.minimum(np.searchsorted(known, key), len(known) - 1)
            clash = clash[known[place] == key]
            drawn[clash] = rng.integers(num_items, size=clash.size)
        return drawn

    def batches() -> Iterator[tuple[Tensor, ...]]:
        order = rng.permutation(len(user))
        if tuned:
            columns = [user[order], item[order]] + ([together(user[order])] if negatives else [])
            yield from zip(*(torch.from_numpy(c).split(batch_size) for c in columns), strict=True)
            return
        for begin in range(0, len(order), batch_size):
            chosen = order[begin : begin + batch_size]
            columns = [user[chosen], item[chosen]]
            if negatives:
                columns.append(one_by_one(user[chosen]))
            yield tuple(map(torch.from_numpy, columns))

    return batches


def epoch(
    model: nn.Module, batches: Callable, *, lr=1e-3, fused=False, steps: int | None = None
) -> Callable[[], float]:
    """One epoch of dense Adam over ``batches()``, or its first ``steps``; returns the mean loss.

    ``fused`` takes PyTorch's single-pass Adam, which its users have to ask for.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=lr, fused=fused)
    device = learned[0].device

    def run() -> float:
        model.train()
        model.start()
        total = []
        for number, batch in enumerate(batches()):
            if number == steps:
                break
            optimizer.zero_grad()
            loss = model.loss(*(part.to(device) for part in batch))
            loss.backward()
            optimizer.step()
            total.append(loss.item())
        _wait(learned[0])
        return sum(total) / len(total)

    return run


# Sequences


class SASRec(nn.Module):
    """SASRec with its authors' layers and softmax over all items; 0 is padding, item i is i + 1.

    Ordinary: logits of every padded position, padding ignored by the loss. ``tuned``: only the
    states of real positions are multiplied with the items.
    """

    def __init__(
        self, num_items, *, max_len=50, dim=64, layers=2, heads=1, dropout=0.5, tuned=False
    ):
        super().__init__()
        self.dim, self.tuned = dim, tuned
        self.item = nn.Embedding(num_items + 1, dim, padding_idx=0)
        self.position = nn.Embedding(max_len, dim)
        nn.init.xavier_uniform_(self.item.weight)
        nn.init.xavier_uniform_(self.position.weight)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([_Block(dim, heads, dropout) for _ in range(layers)])
        self.last_norm = nn.LayerNorm(dim, eps=1e-8)
        causal = torch.ones(max_len, max_len, dtype=torch.bool).tril()
        self.register_buffer("causal", causal, persistent=False)

    def start(self) -> None:
        pass

    def encode(self, items: Tensor) -> Tensor:
        """States [B, L, D] of ``items`` int64 [B, L], padded on the left with 0."""
        known = items > 0
        x = self.item(items) * self.dim**0.5 + self.position.weight
        x = self.drop(x)
        itself = torch.eye(items.shape[1], dtype=torch.bool, device=items.device)
        visible = (self.causal & known[:, None, :]) | itself  # a row without any key gives NaN
        for block in self.blocks:
            x = block(x, visible[:, None])
        return self.last_norm(x)

    def loss(self, items: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy at positions whose target, int64 [B, L], is not 0."""
        states, table = self.encode(items), self.item.weight[1:]
        if self.tuned:
            real = targets > 0
            return F.cross_entropy(states[real] @ table.T, targets[real] - 1)
        logits = states.flatten(0, 1) @ table.T
        return F.cross_entropy(logits, targets.flatten() - 1, ignore_index=-1)


class _Block(nn.Module):
    """Attention with normalised queries, then a feed-forward layer."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.query, self.key, self.value, self.inner, self.outer = (
            nn.Linear(dim, dim) for _ in range(5)
        )
        self.attention_norm, self.feed_norm = (nn.LayerNorm(dim, eps=1e-8) for _ in range(2))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        normed = self.attention_norm(x)
        query, key, value = split(self.query(normed)), split(self.key(x)), split(self.value(x))
        logits = (query @ key.mT * self.scale).masked_fill(~visible, -torch.inf)
        mixed = self.drop(logits.softmax(-1)) @ value
        normed = self.feed_norm(normed + mixed.transpose(1, 2).flatten(2))
        return normed + self.drop(self.outer(self.drop(F.relu(self.inner(normed)))))


def sequence_batches(
    user, item, time, num_users: int, *, max_len=50, batch_size=256, seed=0
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """A callable that yields one epoch of padded histories [B, L] and their next items."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((time, user))
    ends = np.cumsum(np.bincount(user, minlength=num_users))[:-1]
    rows = [row for row in np.split(item[order].astype(np.int64) + 1, ends) if len(row) > 1]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        shuffled = rng.permutation(len(rows))
        for begin in range(0, len(rows), batch_size):
            chosen = shuffled[begin : begin + batch_size]
            padded = np.zeros((len(chosen), max_len + 1), np.int64)
            for place, number in enumerate(chosen):
                row = rows[number][-max_len - 1 :]
                padded[place, -len(row) :] = row
            both = torch.from_numpy(padded)
            targets = both[:, 1:] * (both[:, :-1] > 0)  # nothing precedes a history's first item
            yield both[:, :-1], targets

    return batches
