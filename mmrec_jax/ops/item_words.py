"""Words of items: columns of features that count words, rarer ones weighing more."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from mmrec_jax.types import Dataset, Spec, UserError

_COLUMNS = 256  # words counted at a time


def chosen(spec: Spec, words: tuple[str, ...]) -> tuple[str, ...]:
    """The modalities whose columns are words: those of ``words``, or all.

    Raises:
      UserError: if ``words``, which the user knows as ``model.words``, names what is not there.
    """
    if unknown := sorted(set(words) - set(spec.modalities)):
        raise UserError(
            f"model.words names {', '.join(unknown)}, but the modalities are "
            f"{', '.join(spec.modalities)}; use those names"
        )
    return tuple(words) or spec.modalities


def weights(data: Dataset, names: tuple[str, ...]) -> np.ndarray:
    """Weights of the words of each item, float32 [I, W], rarer words weighing more.

    Raises:
      UserError: if there are no features.
    """
    data.need_features("DGVAE")
    parts = []
    for name in names:
        features, present = data.features[name], data.present[name]
        least = features[present].min(axis=0, initial=np.inf) if present.any() else 0
        parts.append(np.where(present[:, None], features - least, 0))
    words = np.concatenate(parts, axis=1).astype(np.float32)
    users, train = data.spec.num_users, data.train
    chosen = sparse.csr_array(
        (np.ones(len(train), np.float32), (train.user, train.item)), (users, len(words))
    )
    blocks = np.array_split(words > 0, -(-words.shape[1] // _COLUMNS), axis=1)
    holders = np.concatenate([(chosen @ b.astype(np.float32) > 0).sum(axis=0) for b in blocks])
    return words * (1 + np.log((1 + users) / (1 + holders))).astype(np.float32)[None]
