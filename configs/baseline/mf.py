r"""MF-BPR.

    python launch.py --config=configs/baseline/mf.py:debug --workdir=runs/mf_debug
    python launch.py --config=configs/baseline/mf.py:lastfm2k --workdir=runs/mf \
        --config.data.source=DIR/lfm2k.inter

Published for Baby (MMRec's table; test recall@20 / NDCG@20): .0575 / .0249. MMRec itself on
Last.fm-2K, seeds 999 and 42, settings of ``lastfm2k``: .3971 and .3933 / .2741 and .2719.

Variants: ``lastfm2k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "baseline.mf"
    config.model.dim = 64
    config.model.reg_weight = 1e-2
    return base.parse(config, arg, lastfm2k={"model.reg_weight": 1e-2})


def sweep() -> dict[str, tuple]:
    """MMRec's grid, and the learning rate."""
    return {
        "model.reg_weight": (2.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        "optim.lr": (5e-3, 1e-3, 3e-4),
    }
