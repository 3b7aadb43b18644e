r"""Mult-VAE.

    python launch.py --config=configs/generative/multvae.py:debug --workdir=runs/multvae_debug
    python launch.py --config=configs/generative/multvae.py:lastfm2k --workdir=runs/multvae \
        --config.data.source=DIR/lfm2k.inter

The defaults are those of the authors' code for MovieLens-20M, of which the paper has recall@20 /
recall@50 / NDCG@100 .395 / .537 / .426 on users held out of training, a protocol that this package
has not. 200,000 steps of annealing are out of reach of small data: on Last.fm-2K, of six settings
that of ``lastfm2k`` was best on validation (recall@20 .4257; the defaults .4085), in one run each.

Variants: ``lastfm2k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "generative.multvae"
    config.model.dim = 200
    config.model.hidden = (600,)
    config.model.dropout = 0.5
    config.model.anneal_cap = 0.2
    config.model.anneal_steps = 200_000
    config.optim.lr = 1e-3
    config.train.epochs = 200
    config.train.batch_size = 500
    return base.parse(
        config,
        arg,
        debug=base.DEBUG | {"train.batch_size": 50},
        lastfm2k={"model.anneal_steps": 1000, "model.anneal_cap": 0.5},
    )


def sweep() -> dict[str, tuple]:
    return {
        "model.anneal_cap": (0.0, 0.1, 0.2, 0.5, 1.0),
        "model.anneal_steps": (1000, 2000, 10_000, 200_000),
        "model.dropout": (0.2, 0.5, 0.7),
        "optim.lr": (1e-4, 5e-4, 1e-3),
    }
