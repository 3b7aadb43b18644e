r"""Late ensemble of EASE and content neighbours.

    python launch.py --config=configs/baseline/ensemble.py:debug --workdir=runs/ensemble_debug
    python launch.py --config=configs/baseline/ensemble.py:lastfm2k --workdir=runs/ensemble \
        --config.data.source=DIR/lfm2k.inter

Nothing is trained. Test recall@20 / NDCG@20 here, MMRec's protocol, share chosen on validation from
0 to 0.3 (the best of these in both cases): Last.fm-2K, all three features, lambda 100, .4130 /
.2834; Baby, ready-made graphs of image and text, lambda 200, .0881 / .0431. EASE alone: .3955 /
.2711 and .0821 / .0398.

Variants: ``lastfm2k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "baseline.ensemble"
    config.model.reg = 200.0
    config.model.k = 10
    config.model.share = 0.3
    config.train.epochs = 0
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "train.epochs": 0},
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "model.reg": 100.0,
        },
    )


def sweep() -> dict[str, tuple]:
    return {
        "model.reg": (50.0, 100.0, 200.0, 500.0, 1000.0),
        "model.share": (0.1, 0.2, 0.3, 0.4, 0.5),
    }
