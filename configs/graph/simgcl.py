r"""SimGCL.

    python launch.py --config=configs/graph/simgcl.py:debug --workdir=runs/simgcl_debug
    python launch.py --config=configs/graph/simgcl.py:baby --workdir=runs/simgcl \
        --config.data.source=DIR/baby.inter

Published, test recall@20 / NDCG@20 on Yelp2018 (the authors' table, 3 layers, weight 0.5, noise
0.1): .0721 / .0601, where their LightGCN has .0639 / .0525.

Variants: ``baby``, ``lastfm2k``, ``gowalla`` (the settings of that table), ``debug``,
``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "graph.simgcl"
    config.model.dim = 64
    config.model.layers = 2
    config.model.contrast_weight = 0.5
    config.model.noise = 0.1
    config.model.temperature = 0.2
    config.model.reg_weight = 1e-4
    return base.parse(
        config,
        arg,
        # On so few users the contrast of a whole batch outweighs what there is to learn.
        debug={**base.DEBUG, "model.contrast_weight": 0.02},
        baby={},
        lastfm2k={"model.contrast_weight": 0.1},
        gowalla={
            "data.ratios": (1.0, 0.0, 0.0),  # the published split has no validation part
            "model.layers": 3,
        },
    )


def sweep() -> dict[str, tuple]:
    """The contrastive weights around the authors' own, and their depths."""
    return {
        "model.layers": (1, 2, 3),
        "model.contrast_weight": (0.01, 0.05, 0.1, 0.2, 0.5, 1.0),
    }
