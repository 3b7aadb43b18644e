r"""MambaRec.

    python launch.py --config=configs/multimodal/mambarec.py:debug --workdir=runs/mambarec_debug
    python launch.py --config=configs/multimodal/mambarec.py:lastfm2k --workdir=runs/mambarec \
        --config.data.source=DIR/lfm2k.inter

Published: as a picture in the authors' README, Baby, Sports and Clothing, with 4096-d image and
384-d text features.

Variants: ``lastfm2k`` (the two modalities that MMRec was given, audio in the place of images),
``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.mambarec"
    config.model.dim = 64
    config.model.layers = 4
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.narrowed = ("image",)
    config.model.reduction = 8
    config.model.dropout = 0.2
    config.model.reg_weight = 1e-4
    config.model.contrast_weight = 0.01
    config.model.temperature = 0.2
    config.model.mmd_weight = 0.1
    config.model.bandwidth = 1.5
    config.model.finetune_features = True
    config.optim.schedule = "exponential"  # by 0.96 every 50 epochs, as the authors
    lastfm2k = {
        "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
        "model.narrowed": ("vggish",),
        "eval.patience": 50,  # validation falls for the first 20 epochs or so
    }
    return base.parse(config, arg, lastfm2k=lastfm2k)


def sweep() -> dict[str, tuple]:
    """The authors' grid."""
    return {"model.mmd_weight": (0.1, 0.15, 0.2), "model.bandwidth": (1.0, 1.5, 2.0)}
