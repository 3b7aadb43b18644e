r"""AlphaRec.

    python launch.py --config=configs/graph/alpharec.py:debug --workdir=runs/alpharec_debug
    python launch.py --config=configs/graph/alpharec.py:lastfm2k --workdir=runs/alpharec \
        --config.data.source=DIR/lfm2k.inter

Of several feature files, ``model.modalities`` says which are read, by their names without ending.

Variants: ``lastfm2k`` (of the two modalities text alone), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "graph.alpharec"
    config.model.modalities = ()
    config.model.dim = 64
    config.model.hidden = 1536
    config.model.layers = 2
    config.model.negatives = 256
    config.model.temperature = 0.15
    config.optim.lr = 5e-4
    config.train.batch_size = 4096
    config.train.epochs = 500
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "model.hidden": 64, "model.negatives": 32},
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "model.modalities": ("all-MiniLM-L6-v2",),
            "train.batch_size": 2048,
        },
    )


def sweep() -> dict[str, tuple]:
    """Temperatures around the authors' own, and depths."""
    return {
        "model.layers": (1, 2, 3),
        "model.temperature": (0.05, 0.1, 0.15, 0.2),
    }
