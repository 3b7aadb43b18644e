r"""DCCF.

    python launch.py --config=configs/graph/dccf.py:debug --workdir=runs/dccf_debug
    python launch.py --config=configs/graph/dccf.py:baby --workdir=runs/dccf \
        --config.data.source=DIR/baby.inter

Variants: ``baby``, ``lastfm2k`` (batches of 2048), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "graph.dccf"
    config.model.dim = 32
    config.model.layers = 2
    config.model.intents = 128
    config.model.contrast_weight = 0.1
    config.model.temperature = 1.0
    config.model.reg_weight = 2.5e-5
    config.model.intent_reg_weight = 5e-3
    config.train.batch_size = 10240
    small = {"model.dim": 64, "train.batch_size": 2048}
    few = {**small, "model.contrast_weight": 0.01}  # 0.1 outweighs what so few users have to teach
    return base.parse(config, arg, baby=small, lastfm2k=few)


def sweep() -> dict[str, tuple]:
    """Intents as in the paper's study of them, and contrastive weights around the authors' own."""
    return {
        "model.intents": (32, 64, 128, 256),
        "model.contrast_weight": (0.001, 0.01, 0.1, 0.5),
    }
