r"""LightGCN.

    python launch.py --config=configs/graph/lightgcn.py:debug --workdir=runs/lightgcn_debug
    python launch.py --config=configs/graph/lightgcn.py:baby --workdir=runs/lightgcn \
        --config.data.source=DIR/baby.inter

Published, test recall@20 / NDCG@20: Baby (MMRec's table) .0754 / .0328; Gowalla (paper, 1000
epochs) .1830 / .1554. MMRec itself: Baby, one seed, settings of ``baby``, .0748 / .0325;
Last.fm-2K, seeds 999 and 42, settings of ``lastfm2k``, .4123 and .4140 / .2864 and .2881.

Variants: ``baby``, ``lastfm2k``, ``gowalla`` (the paper's settings), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "graph.lightgcn"
    config.model.dim = 64
    config.model.layers = 2
    config.model.reg_weight = 1e-3
    config.model.squared_norms = False
    return base.parse(
        config,
        arg,
        baby={"model.layers": 3, "model.reg_weight": 1e-4},
        lastfm2k={"model.layers": 2, "model.reg_weight": 1e-3},
        gowalla={
            "data.ratios": (1.0, 0.0, 0.0),  # the published split has no validation part
            "model.layers": 3,
            "model.reg_weight": 1e-4,
            "model.squared_norms": True,
        },
    )


def sweep() -> dict[str, tuple]:
    """MMRec's grid."""
    return {
        "model.layers": (1, 2, 3, 4),
        "model.reg_weight": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    }
