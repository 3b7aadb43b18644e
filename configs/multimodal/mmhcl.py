r"""MMHCL.

    python launch.py --config=configs/multimodal/mmhcl.py:debug --workdir=runs/mmhcl_debug
    python launch.py --config=configs/multimodal/mmhcl.py:lastfm2k --workdir=runs/mmhcl \
        --config.data.source=DIR/lfm2k.inter

Published (the authors' training logs; test recall@20 / NDCG@20): TikTok .1139 / .0492, Clothing
.0881 / .0394, Sports .1064 / .0501. Their epochs validate every fifth time and bear five
validations without improvement.

Variants: the authors' settings of ``tiktok`` (the default), ``clothing``, ``sports``; ``lastfm2k``
(the two modalities that MMRec was given), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.mmhcl"
    config.model.dim = 64
    config.model.layers = 2
    config.model.user_layers = 3
    config.model.item_layers = 2
    config.model.knn_k = 5
    config.model.reg_weight = 1e-3
    config.model.user_weight = 0.03
    config.model.item_weight = 0.07
    config.model.temperature = 0.6
    config.optim.lr = 1e-4
    config.optim.schedule = "exponential"  # by 0.96 every 50 epochs, as the authors
    config.train.batch_size = 1024
    clothing = {
        "model.user_layers": 2,
        "model.knn_k": 10,
        "model.user_weight": 0.1,
        "model.item_weight": 0.7,
        "model.temperature": 0.4,
    }
    sports = {
        "model.user_layers": 2,
        "model.reg_weight": 1e-5,
        "model.user_weight": 0.3,
        "model.item_weight": 0.7,
        "model.temperature": 0.5,
    }
    lastfm2k = {"data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy")}
    return base.parse(config, arg, tiktok={}, clothing=clothing, sports=sports, lastfm2k=lastfm2k)


def sweep() -> dict[str, tuple]:
    """What the authors' logs chose from, by data set."""
    return {
        "model.user_weight": (0.03, 0.1, 0.3),
        "model.item_weight": (0.07, 0.7),
        "model.temperature": (0.4, 0.5, 0.6),
    }
