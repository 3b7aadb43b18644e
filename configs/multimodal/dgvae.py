r"""DGVAE.

    python launch.py --config=configs/multimodal/dgvae.py:debug --workdir=runs/dgvae_debug
    python launch.py --config=configs/multimodal/dgvae.py:lastfm2k --workdir=runs/dgvae \
        --config.data.source=DIR/lfm2k.inter

Published for Baby (the authors' README; test recall@20 / NDCG@20): .1009 / .0436, with words of
titles, descriptions and captions. Defaults are those of their script for Baby.

Variants: ``lastfm2k`` (the columns of both modalities stand in for words, as there are none),
``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.dgvae"
    config.model.dim = 64
    config.model.prototypes = 3
    config.model.words = ()
    config.model.knn_k = 10
    config.model.modality_weights = ()
    config.model.temperature = 0.1
    config.model.noise = 0.075
    config.model.dropout = 0.5
    config.model.anneal_cap = 0.2
    config.model.anneal_steps = 20_000
    config.model.text_weight = 0.2
    config.model.mutual_weight = 0.4
    config.optim.lr = 1e-3
    config.train.epochs = 100
    config.train.batch_size = 512
    return base.parse(
        config,
        arg,
        debug=base.DEBUG | {"train.batch_size": 50},
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "train.epochs": 1000,
        },
    )


def sweep() -> dict[str, tuple]:
    return {
        "model.prototypes": (2, 3, 4),
        "model.mutual_weight": (0.2, 0.4),
        "model.text_weight": (0.1, 0.2, 0.5),
    }
