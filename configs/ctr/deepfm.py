r"""DeepFM.

    python launch.py --config=configs/ctr/deepfm.py:debug --workdir=runs/deepfm_debug
    python launch.py --config=configs/ctr/deepfm.py:ml100k --workdir=runs/deepfm \
        --config.data.source=DIR/ml100k

MovieLens-100K, clicks are ratings of 4 and 5, of each user's ratings 8:1:1 at random; ours stand in
docs/click.md. For this split no value is published; the paper measures Criteo.

Variants: ``ml100k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base

ML100K = {
    "data.split": "ratio",
    "data.click_rating": 4.0,
    "optim.weight_decay": 1e-5,
    "model.dropout": 0.5,
    "train.epochs": 100,
    "eval.patience": 5,
}


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.impressions = True
    config.model.name = "ctr.deepfm"
    config.model.dim = 16
    config.model.hidden = (400, 400, 400)
    config.model.dropout = 0.0
    config.train.batch_size = 1024
    config.train.epochs = 100
    config.eval.metric = "auc"
    config.eval.metrics = ("auc", "gauc", "logloss")
    config.eval.patience = 5
    return base.parse(config, arg, ml100k=ML100K)


def sweep() -> dict[str, tuple]:
    """Regularisation, which decides on small data."""
    return {"optim.weight_decay": (0.0, 1e-6, 1e-5, 1e-4), "model.dropout": (0.0, 0.2, 0.5)}
