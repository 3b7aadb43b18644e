r"""NGCF.

    python launch.py --config=configs/graph/ngcf.py:debug --workdir=runs/ngcf_debug
    python launch.py --config=configs/graph/ngcf.py:gowalla --workdir=runs/ngcf \
        --config.data.source=DIR/gowalla

Variants: ``baby``, ``lastfm2k``, ``gowalla`` (the settings of the authors' README), ``debug``,
``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "graph.ngcf"
    config.model.dim = 64
    config.model.hidden = (64, 64, 64)
    config.model.dropout = 0.1
    config.model.reg_weight = 1e-5
    return base.parse(
        config,
        arg,
        baby={},
        lastfm2k={},
        gowalla={
            "data.ratios": (1.0, 0.0, 0.0),  # the published split has no validation part
            "optim.lr": 1e-4,
            "train.batch_size": 1024,
            "train.epochs": 400,
        },
    )


def sweep() -> dict[str, tuple]:
    """The paper's grid, without the settings at its far ends."""
    return {
        "optim.lr": (1e-4, 5e-4, 1e-3, 5e-3),
        "model.reg_weight": (1e-5, 1e-4, 1e-3, 1e-2),
        "model.dropout": (0.0, 0.1, 0.3),
    }
