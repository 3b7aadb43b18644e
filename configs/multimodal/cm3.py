r"""CM3.

    python launch.py --config=configs/multimodal/cm3.py:debug --workdir=runs/cm3_debug
    python launch.py --config=configs/multimodal/cm3.py:lastfm2k --workdir=runs/cm3 \
        --config.data.source=DIR/lfm2k.inter

The authors' code is made for Amazon and MicroLens data; it names a grid, and no setting of it for a
data set. Batches of 2,048, Adam with a constant rate of 0.001, at most 10 validations without
improvement.

Variants: ``lastfm2k`` (the two modalities that MMRec was given), ``image_text`` (the authors'
weights where the modalities bear these names), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.cm3"
    config.model.dim = 64
    config.model.layers = 3
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.modality_weights = ()
    config.model.uniformity_weight = 0.5
    config.model.min_similarity = 0.0
    config.model.max_similarity = 0.8
    config.model.concentration = 0.5
    config.eval.patience = 10  # as the authors
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "model.modality_weights": ()},
        image_text={"model.modality_weights": (("image", 0.1), ("text", 0.9))},
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "model.modality_weights": (("all-MiniLM-L6-v2", 0.9), ("vggish", 0.1)),
        },
    )


def sweep() -> dict[str, tuple]:
    """The grid of the authors' code."""
    return {
        "model.layers": (3, 4),
        "model.uniformity_weight": (0.5, 0.9),
        "model.max_similarity": (0.8, 1.0),
        "model.concentration": (0.1, 0.5, 0.9),
        "optim.weight_decay": (0.0, 1e-6),
    }
