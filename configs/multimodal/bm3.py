r"""BM3.

    python launch.py --config=configs/multimodal/bm3.py:debug --workdir=runs/bm3_debug
    python launch.py --config=configs/multimodal/bm3.py:lastfm2k --workdir=runs/bm3 \
        --config.data.source=DIR/lfm2k.inter

Published for Baby (paper; test recall@20 / NDCG@20): .0883 / .0383. MMRec itself on Last.fm-2K,
seeds 999 and 42, settings of ``lastfm2k``: .3056 and .3412 / .2082 and .2342.

Variants: ``lastfm2k`` (the two modalities that MMRec was given), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.bm3"
    config.model.dim = 64
    config.model.layers = 1
    config.model.dropout = 0.3
    config.model.reg_weight = 0.1
    config.model.content_weight = 2.0
    config.model.finetune_features = True
    lastfm2k = {
        "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
        "model.layers": 1,
        "model.dropout": 0.3,
        "model.reg_weight": 0.1,
    }
    return base.parse(config, arg, lastfm2k=lastfm2k)


def sweep() -> dict[str, tuple]:
    """The paper's grid."""
    return {
        "model.layers": (1, 2),
        "model.dropout": (0.3, 0.5),
        "model.reg_weight": (0.1, 0.01),
    }
