r"""LATTICE.

    python launch.py --config=configs/multimodal/lattice.py:debug --workdir=runs/lattice_debug
    python launch.py --config=configs/multimodal/lattice.py:lastfm2k --workdir=runs/lattice \
        --config.data.source=DIR/lfm2k.inter

Published for Baby (MMRec's table; test recall@20 / NDCG@20): .0850 / .0370.

Variants: ``lastfm2k`` (the two modalities that MMRec was given), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.lattice"
    config.model.dim = 64
    config.model.feature_dim = 64
    config.model.layers = 2
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.original_weight = 0.9
    config.model.reg_weight = 1e-4
    config.model.finetune_features = True
    config.optim.schedule = "exponential"  # by 0.96 every 50 epochs, as the authors
    lastfm2k = {"data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy")}
    return base.parse(config, arg, lastfm2k=lastfm2k)


def sweep() -> dict[str, tuple]:
    """MMRec's grid."""
    return {
        "model.reg_weight": (0.0, 1e-5, 1e-4, 1e-3),
        "optim.lr": (1e-4, 5e-4, 1e-3, 5e-3),
    }
