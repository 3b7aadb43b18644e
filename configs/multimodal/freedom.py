r"""FREEDOM.

    python launch.py --config=configs/multimodal/freedom.py:debug --workdir=runs/freedom_debug
    python launch.py --config=configs/multimodal/freedom.py:lastfm2k --workdir=runs/freedom \
        --config.data.source=DIR/lfm2k.inter
    python launch.py --config=configs/multimodal/freedom.py:baby --workdir=runs/freedom_baby \
        --config.data.source=DIR/baby.inter

Published for Baby (paper; test recall@20 / NDCG@20): .0992 / .0424. MMRec itself, with the item
graph given and no feature losses, one seed, settings of ``baby``: .0978 / .0420; on Last.fm-2K,
seeds 999 and 42, settings of ``lastfm2k``: .4088 and .4128 / .2801 and .2837.

Variants: ``baby`` (a ready-made item graph, no feature losses), ``lastfm2k`` (the two modalities
that MMRec was given, and its weights for them), ``image_text`` (the authors' weights where the
modalities bear these names), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.freedom"
    config.model.dim = 64
    config.model.layers = 2
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.modality_weights = ()
    config.model.dropout = 0.8
    config.model.reg_weight = 1e-3
    config.model.finetune_features = True
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "model.modality_weights": ()},
        image_text={"model.modality_weights": (("image", 0.1), ("text", 0.9))},
        baby={
            "data.item_graphs": ("freedom_mm_adj_10_img0.1.npz",),
            "model.dropout": 0.8,
            "model.reg_weight": 0.0,
        },
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "model.modality_weights": (("all-MiniLM-L6-v2", 0.9), ("vggish", 0.1)),
            "model.dropout": 0.8,
            "model.reg_weight": 1e-3,
        },
    )


def sweep() -> dict[str, tuple]:
    """The grid of the authors' code."""
    return {"model.dropout": (0.8, 0.9), "model.reg_weight": (0.0, 1e-5, 1e-4, 1e-3)}
