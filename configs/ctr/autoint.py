r"""AutoInt.

    python launch.py --config=configs/ctr/autoint.py:debug --workdir=runs/autoint_debug
    python launch.py --config=configs/ctr/autoint.py:ml100k --workdir=runs/autoint \
        --config.data.source=DIR/ml100k

MovieLens-100K, clicks are ratings of 4 and 5, of each user's ratings 8:1:1 at random; ours stand in
docs/click.md. The paper measures MovieLens-1M without its ratings of 3 (AUC .8456), which is
another question; for this split no value is published.

Variants: ``ml100k``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base

ML100K = {
    "data.split": "ratio",
    "data.click_rating": 4.0,
    "optim.weight_decay": 1e-5,
    "model.dropout": 0.2,
    "train.epochs": 100,
    "eval.patience": 5,
}


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.impressions = True
    config.model.name = "ctr.autoint"
    config.model.dim = 16
    config.model.layers = 3
    config.model.units = 64
    config.model.heads = 2
    config.model.hidden = ()  # (400, 400) makes it AutoInt+
    config.model.dropout = 0.0
    config.train.batch_size = 1024
    config.train.epochs = 100
    config.eval.metric = "auc"
    config.eval.metrics = ("auc", "gauc", "logloss")
    config.eval.patience = 5
    return base.parse(config, arg, ml100k=ML100K)


def sweep() -> dict[str, tuple]:
    """Regularisation, which decides on small data; the paper fixes the rest."""
    return {"optim.weight_decay": (0.0, 1e-6, 1e-5, 1e-4), "model.dropout": (0.0, 0.2, 0.5)}
