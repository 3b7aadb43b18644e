r"""RQ-VAE codes from item features.

    python launch.py --config=configs/generative/rqvae.py:debug --workdir=runs/rqvae_debug
    python launch.py --config=configs/generative/rqvae.py --workdir=runs/rqvae \
        --config.data.source=DIR/sequences.txt --config.data.features="('DIR/text_feat.npz',)"

Sizes as TIGER's: three levels of 256 codes and one that tells items alike apart. ``codes.parquet``
in the workdir holds the codes, ``codes.json`` a health report, ``codes.png`` the use of every
level. See docs/codes.md.

Variants: ``lcrec``, as LC-Rec: four levels, the last balanced, items alike moved to other last
codes, its deeper encoder and its optimiser; ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "generative.rqvae"
    config.model.sizes = (256, 256, 256)
    config.model.layers = (512, 256, 128)
    config.model.dim = 32
    config.model.commitment = 0.25
    config.model.quantization = 1.0
    config.model.balanced = False
    config.model.epsilon = 0.003
    config.model.revive_after = 1.0
    config.model.unique = "suffix"
    config.optim.name = "adamw"
    config.optim.clip_norm = 1.0
    config.train.epochs = 1000
    config.train.batch_size = 1024
    config.eval.every = 20
    config.eval.patience = 0
    config.eval.metric = "unique"
    config.eval.metrics = ("unique", "fit", "use", "perplexity")
    config.eval.ks = ()
    config.eval.block = 4096
    config.checkpoint.every = 100
    small = {"model.sizes": (16, 16, 16), "model.layers": (64, 32), "model.dim": 16}
    lcrec = {
        "model.sizes": (256, 256, 256, 256),
        "model.layers": (2048, 1024, 512, 256, 128, 64),
        "model.balanced": True,
        "model.unique": "sinkhorn",
        "optim.weight_decay": 1e-4,
    }
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, **small, "train.batch_size": 64, "eval.every": 1},
        lcrec=lcrec,
    )


def sweep() -> dict[str, tuple]:
    return {"model.commitment": (0.1, 0.25, 0.5), "model.dim": (16, 32, 64)}
