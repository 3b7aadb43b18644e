r"""Popularity.

    python launch.py --config=configs/baseline/popularity.py:debug --workdir=runs/popularity_debug
    python launch.py --config=configs/baseline/popularity.py --workdir=runs/popularity \
        --config.data.source=DIR/baby.inter

Nothing is trained. Test recall@20 / NDCG@20 here, MMRec's protocol: Baby .0495 / .0212, Last.fm-2K
.1229 / .0755.

Variants: ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "baseline.popularity"
    config.train.epochs = 0
    return base.parse(config, arg, debug={**base.DEBUG, "train.epochs": 0})
