r"""Residual k-means codes from item features.

    python launch.py --config=configs/generative/rkmeans.py:debug --workdir=runs/rkmeans_debug
    python launch.py --config=configs/generative/rkmeans.py --workdir=runs/rkmeans \
        --config.data.source=DIR/sequences.txt --config.data.features="('DIR/text_feat.npz',)"

Nothing is trained. ``codes.parquet`` in the workdir holds the codes, ``codes.json`` a health
report, ``codes.png`` the use of every level. See docs/codes.md.

Variants: ``sinkhorn``, items alike move to other last codes instead of a fourth level; ``debug``,
``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "generative.rkmeans"
    config.model.sizes = (256, 256, 256)
    config.model.steps = 50
    config.model.unique = "suffix"
    config.model.seed = config.get_ref("seed")
    config.train.epochs = 0
    config.eval.metric = "unique"
    config.eval.metrics = ("unique", "fit", "use", "perplexity")
    config.eval.ks = ()
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "train.epochs": 0, "model.sizes": (16, 16, 16)},
        sinkhorn={"model.sizes": (256, 256, 256, 256), "model.unique": "sinkhorn"},
    )
