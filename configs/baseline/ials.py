r"""iALS.

    python launch.py --config=configs/baseline/ials.py:debug --workdir=runs/ials_debug
    python launch.py --config=configs/baseline/ials.py:lastfm2k --workdir=runs/ials \
        --config.data.source=DIR/lfm2k.inter
    python launch.py --config=configs/baseline/ials.py:baby --workdir=runs/ials_baby \
        --config.data.source=DIR/baby.inter

Test recall@20 / NDCG@20 here, MMRec's protocol, one seed, 16 epochs, reg and alpha chosen on
validation from 16 and 17 settings: Last.fm-2K .4333 / .3081, Baby .0843 / .0361; EASE has .3955 /
.2711 and .0821 / .0398. An epoch over Baby takes 0.08 s with 64 dimensions and 0.7 to 2 s with 256
(four CPU cores, shared).

Variants: ``baby``, ``lastfm2k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "baseline.ials"
    config.model.dim = 64
    config.model.reg = 0.03
    config.model.alpha = 0.03
    config.model.reg_exponent = 1.0
    config.model.init_scale = 0.1
    config.train.epochs = 50
    config.eval.patience = 10
    return base.parse(
        config,
        arg,
        baby={"model.reg": 0.1, "model.alpha": 0.003},
        lastfm2k={"model.reg": 0.03, "model.alpha": 0.03},
    )


def sweep() -> dict[str, tuple]:
    return {
        "model.reg": (0.003, 0.01, 0.03, 0.1),
        "model.alpha": (0.003, 0.01, 0.03, 0.1, 0.3),
        "model.dim": (64, 256),
    }
