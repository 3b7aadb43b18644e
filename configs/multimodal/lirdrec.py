r"""LIRDRec.

    python launch.py --config=configs/multimodal/lirdrec.py:debug --workdir=runs/lirdrec_debug
    python launch.py --config=configs/multimodal/lirdrec.py:lastfm2k --workdir=runs/lirdrec \
        --config.data.source=DIR/lfm2k.inter

The authors' code is made for Amazon and MicroLens data; it names a grid, and no setting of it for a
data set. Batches of 2,048, Adam with a constant rate of 0.0001.

Variants: ``lastfm2k`` (the two modalities that MMRec was given), ``image_text`` (the authors'
weights where the modalities bear these names), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.lirdrec"
    config.model.dim = 64
    config.model.layers = 2
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.modality_weights = ()
    config.model.reg_weight = 1e-3
    config.model.network_share = 0.9
    config.model.decay_base = 0.9
    config.optim.lr = 1e-4
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "model.modality_weights": ()},
        image_text={"model.modality_weights": (("image", 0.1), ("text", 0.9))},
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "model.modality_weights": (("all-MiniLM-L6-v2", 0.9), ("vggish", 0.1)),
        },
    )


def sweep() -> dict[str, tuple]:
    """The grid of the authors' code, but for the shares of the item graphs (image 0.1 and 0.2)."""
    return {
        "model.layers": (2, 3, 4),
        "model.reg_weight": (0.01, 0.001, 0.0001),
        "model.network_share": (0.9, 0.95, 0.99),
        "optim.weight_decay": (0.0, 1e-6, 1e-5),
    }
