r"""AlignRec.

    python launch.py --config=configs/multimodal/alignrec.py:debug --workdir=runs/alignrec_debug
    python launch.py --config=configs/multimodal/alignrec.py:lastfm2k --workdir=runs/alignrec \
        --config.data.source=DIR/lfm2k.inter

The published figures rest on the authors' own BEiT-3 vectors of the Amazon products (one modality,
``beit3_128token_add_title_brand_to_text``), which this package has not. Defaults are the settings
that the authors' code has beside its grid.

Variants: ``lastfm2k`` (two modalities side by side, as no unified vector exists), ``debug``,
``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.alignrec"
    config.model.dim = 64
    config.model.layers = 2
    config.model.item_layers = 1
    config.model.knn_k = 10
    config.model.reg_weight = 1e-4
    config.model.contrast_weight = 0.01
    config.model.temperature = 0.2
    config.model.cosine_weight = 0.1
    config.model.similarity_weight = 0.1
    config.model.finetune_features = True
    config.model.fixed_similarity = False
    config.optim.lr = 5e-4
    config.optim.schedule = "exponential"  # by 0.96 every 50 epochs, as the authors
    config.eval.patience = 30
    return base.parse(
        config,
        arg,
        lastfm2k={"data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy")},
    )


def sweep() -> dict[str, tuple]:
    """The grid of the authors' code."""
    return {
        "optim.lr": (1e-4, 3e-4, 5e-4, 7e-4, 1e-3, 3e-3, 5e-3),
        "model.contrast_weight": (1e-4, 1e-3, 5e-3, 0.01, 0.1),
        "model.similarity_weight": (0.1, 0.2, 0.3, 0.4, 0.5),
    }
