r"""EASE.

    python launch.py --config=configs/baseline/ease.py:debug --workdir=runs/ease_debug
    python launch.py --config=configs/baseline/ease.py:baby --workdir=runs/ease_baby \
        --config.data.source=DIR/baby.inter
    python launch.py --config=configs/baseline/ease.py:lastfm2k --workdir=runs/ease \
        --config.data.source=DIR/lfm2k.inter

Nothing is trained. Test recall@20 / NDCG@20 here, MMRec's protocol: Baby, lambda 200, .0821 /
.0398; Last.fm-2K, lambda 100, .3955 / .2711. Both are what a plain NumPy solution gives.

Variants: ``baby``, ``lastfm2k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "baseline.ease"
    config.model.reg = 200.0
    config.train.epochs = 0
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "train.epochs": 0},
        baby={"model.reg": 200.0},
        lastfm2k={"model.reg": 100.0},
    )


def sweep() -> dict[str, tuple]:
    return {"model.reg": (10.0, 50.0, 100.0, 200.0, 500.0, 1000.0)}
