r"""MGCN.

    python launch.py --config=configs/multimodal/mgcn.py:debug --workdir=runs/mgcn_debug
    python launch.py --config=configs/multimodal/mgcn.py:lastfm2k --workdir=runs/mgcn \
        --config.data.source=DIR/lfm2k.inter

MMRec itself on Last.fm-2K, one seed, settings of ``lastfm2k``, test recall@20 / NDCG@20:
.4311 / .3024.

Variants: ``lastfm2k`` (the two modalities that MMRec was given), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.mgcn"
    config.model.dim = 64
    config.model.layers = 2
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.reg_weight = 1e-4
    config.model.contrast_weight = 0.01
    config.model.temperature = 0.2
    config.model.finetune_features = True
    config.optim.schedule = "exponential"  # by 0.96 every 50 epochs, as the authors
    lastfm2k = {
        "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
        "model.contrast_weight": 0.01,
    }
    return base.parse(config, arg, lastfm2k=lastfm2k)


def sweep() -> dict[str, tuple]:
    """The grid of the authors' code."""
    return {"model.contrast_weight": (0.001, 0.01, 0.1)}
