r"""LayerGCN.

    python launch.py --config=configs/graph/layergcn.py:debug --workdir=runs/layergcn_debug
    python launch.py --config=configs/graph/layergcn.py:baby --workdir=runs/layergcn \
        --config.data.source=DIR/baby.inter

Variants: ``baby``, ``lastfm2k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "graph.layergcn"
    config.model.dim = 64
    config.model.layers = 4
    config.model.dropout = 0.1
    config.model.reg_weight = 1e-3
    return base.parse(
        config,
        arg,
        baby={"model.dropout": 0.1, "model.reg_weight": 1e-3},
        lastfm2k={"model.dropout": 0.1, "model.reg_weight": 1e-2},
    )


def sweep() -> dict[str, tuple]:
    """The grid of the authors' code."""
    return {
        "model.dropout": (0.0, 0.1, 0.2),
        "model.reg_weight": (1e-2, 1e-3, 1e-4, 1e-5),
    }
