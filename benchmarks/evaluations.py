"""Full-ranking evaluation in PyTorch: as MMRec does it, and with tensors throughout.

Needs ``torch`` and numpy; only ``benchmarks/speed.py`` imports it. The models are those of
``benchmarks/baselines.py``. Both callables return the same means over users that have targets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

KS = (5, 10, 20, 50)


def evaluation(model: nn.Module, train, target, *, block=4096) -> Callable[[], dict[str, float]]:
    """Recall, NDCG, precision and MAP at ``KS`` of users with targets, step by step as MMRec.

    ``train`` and ``target`` are (user, item); training items are masked. Each block of users
    propagates anew, hits are looked up one by one in Python, and metrics are loops over numpy rows.
    """
    (users, wanted), (_, known) = _grouped(*target), _grouped(*train, only=np.unique(target[0]))
    counts = np.array([len(row) for row in wanted])
    lengths = np.array([len(row) for row in known])
    pairs = torch.from_numpy(
        np.stack([np.repeat(np.arange(len(users)), lengths), np.concatenate(known)])
    )
    ends = np.concatenate([[0], np.cumsum(lengths)])
    users = torch.from_numpy(users)

    @torch.no_grad()
    def run() -> dict[str, float]:
        model.eval()
        best = []
        for begin in range(0, len(users), block):
            asked = users[begin : begin + block]
            masked = pairs[:, ends[begin] : ends[begin + len(asked)]].clone()
            masked[0] -= begin
            user_vectors, item_vectors = model.represent()
            scores = user_vectors[asked.to(user_vectors.device)] @ item_vectors.T
            scores[masked[0], masked[1]] = -1e10
            best.append(torch.topk(scores, max(KS)).indices)
        listed = torch.cat(best).cpu().numpy()
        hits = [[i in row for i in ranked] for row, ranked in zip(wanted, listed, strict=True)]
        return _metrics_by_row(np.asarray(hits), counts)

    return run


def _grouped(user, item, only=None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Distinct users (or ``only`` these) and the items of each."""
    users = np.unique(user) if only is None else only
    order = np.argsort(user, kind="stable")
    sorted_users, items = user[order], item[order].astype(np.int64)
    begin, end = (np.searchsorted(sorted_users, users, side) for side in ("left", "right"))
    return users.astype(np.int64), [items[b:e] for b, e in zip(begin, end, strict=True)]


def _metrics_by_row(hits: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Means over users at ``KS`` of hits bool [Q, K] and numbers of targets [Q]."""
    width = hits.shape[1]
    places = np.arange(1, width + 1)
    found = hits.cumsum(axis=1)
    most = np.minimum(counts, width)
    gain = np.zeros(hits.shape)
    gain[:] = 1 / np.log2(places + 1)
    ideal = gain.cumsum(axis=1)
    summed = (found / places * hits).cumsum(axis=1)
    average = np.zeros(hits.shape)
    for row, count in enumerate(most):
        ideal[row, count:] = ideal[row, count - 1]
        divisor = places.copy()
        divisor[count:] = divisor[count - 1]
        average[row] = summed[row] / divisor
    curves = {
        "recall": (found / counts[:, None]).mean(axis=0),
        "ndcg": (np.where(hits, gain, 0).cumsum(axis=1) / ideal).mean(axis=0),
        "precision": (found / places).mean(axis=0),
        "map": average.mean(axis=0),
    }
    return {f"{name}@{k}": float(curve[k - 1]) for name, curve in curves.items() for k in KS}


def tuned_evaluation(
    model: nn.Module, train, target, num_items: int, *, block=512
) -> Callable[[], dict[str, float]]:
    """The same metrics with tensors throughout: one propagation, no Python loop over users."""
    (users, wanted), (_, known) = _grouped(*target), _grouped(*train, only=np.unique(target[0]))
    device = next(model.parameters()).device
    place = lambda rows: _flat(rows, block, num_items, device)
    asked, masked, targets = torch.from_numpy(users).to(device), place(known), place(wanted)
    counts = torch.tensor([len(row) for row in wanted], device=device)
    places = torch.arange(1, max(KS) + 1, device=device)
    gain = 1 / torch.log2(places + 1.0)
    ideal = gain.cumsum(0)

    @torch.no_grad()
    def run() -> dict[str, float]:
        model.eval()
        user_vectors, item_vectors = model.represent()
        listed = []
        is_target = torch.zeros(block * num_items, dtype=torch.bool, device=device)
        for begin in range(0, len(asked), block):
            number = begin // block
            scores = user_vectors[asked[begin : begin + block]] @ item_vectors.T
            scores.view(-1)[masked[number]] = -torch.inf
            best = torch.topk(scores, max(KS)).indices
            is_target[targets[number]] = True
            listed.append(is_target.view(block, -1)[: len(best)].gather(1, best))
            is_target[targets[number]] = False
        hits = torch.cat(listed).float()
        found = hits.cumsum(1)
        at = {
            "recall": lambda k: found[:, k - 1] / counts,
            "ndcg": lambda k: (hits * gain)[:, :k].sum(1) / ideal[counts.clamp(max=k) - 1],
            "precision": lambda k: found[:, k - 1] / k,
            "map": lambda k: (found / places * hits)[:, :k].sum(1) / counts.clamp(max=k),
        }
        means = torch.stack([value(k).mean() for value in at.values() for k in KS])
        names = [f"{name}@{k}" for name in at for k in KS]
        return dict(zip(names, means.tolist(), strict=True))

    return run


def _flat(rows: list[np.ndarray], block: int, num_items: int, device) -> list[Tensor]:
    """Places of each block's entries in its flattened matrix [block, num_items]."""
    lengths = np.array([len(row) for row in rows])
    row = np.repeat(np.arange(len(rows)), lengths)
    flat = row % block * num_items + np.concatenate(rows)
    cuts = np.cumsum(np.bincount(row // block, minlength=-(-len(rows) // block)))[:-1]
    return [torch.from_numpy(part).to(device) for part in np.split(flat, cuts)]
