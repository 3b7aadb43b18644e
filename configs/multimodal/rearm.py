r"""REARM.

    python launch.py --config=configs/multimodal/rearm.py:debug --workdir=runs/rearm_debug
    python launch.py --config=configs/multimodal/rearm.py:lastfm2k --workdir=runs/rearm \
        --config.data.source=DIR/lfm2k.inter

The settings are those of the authors' README, which publishes no numbers beside them; for those
see the tables of https://arxiv.org/abs/2508.13745.

Variants: the authors' settings of ``baby``, ``sports``, ``clothing`` (the modalities being named
image and text; the default is that of Baby without weights of modalities); ``lastfm2k`` (the two
modalities that MMRec was given), ``frozen`` (raw features are not learned), ``debug``,
``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.rearm"
    config.model.dim = 64
    config.model.layers = 4
    config.model.item_layers = 1
    config.model.user_layers = 1
    config.model.item_k = 10
    config.model.user_k = 40
    config.model.item_shares = ()
    config.model.user_shares = ()
    config.model.item_co_weight = 0.2
    config.model.user_co_weight = 0.4
    config.model.meta_rank = 3
    config.model.self_dropout = 0.4
    config.model.cross_dropout = 0.6
    config.model.contrast_weight = 5e-6
    config.model.temperature = 0.6
    config.model.orthogonal_weight = 5e-5
    config.model.finetune_features = True
    config.optim.name = "adamw"
    config.optim.lr = 5e-5
    config.optim.weight_decay = 5e-4
    image_text = lambda image: (("image", image), ("text", 1.0 - image))
    baby = {"model.item_shares": image_text(0.0), "model.user_shares": image_text(0.2)}
    sports = {
        "model.layers": 5,
        "model.item_layers": 2,
        "model.user_layers": 2,
        "model.item_k": 5,
        "model.user_k": 25,
        "model.item_shares": image_text(0.2),
        "model.user_shares": image_text(0.0),
        "model.user_co_weight": 0.9,
        "model.meta_rank": 7,
        "model.self_dropout": 1.0,
        "model.cross_dropout": 0.2,
        "model.contrast_weight": 1e-3,
        "model.temperature": 1.5,
        "model.orthogonal_weight": 5e-4,
        "optim.weight_decay": 0.05,
    }
    clothing = {
        "model.user_k": 45,
        "model.item_shares": image_text(0.1),
        "model.user_shares": image_text(0.1),
        "model.item_co_weight": 0.1,
        "model.user_co_weight": 0.7,
        "model.cross_dropout": 0.1,
        "model.contrast_weight": 1e-6,
        "model.temperature": 0.03,
        "model.orthogonal_weight": 1e-5,
        "optim.weight_decay": 1e-5,
    }
    return base.parse(
        config,
        arg,
        baby=baby,
        sports=sports,
        clothing=clothing,
        lastfm2k={
            "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
            "optim.lr": 5e-4,  # at 5e-5 validation still rises after 450 epochs, of 22 steps each
        },
        frozen={"model.finetune_features": False},
    )


def sweep() -> dict[str, tuple]:
    """What the authors' README chose from, by data set."""
    return {
        "model.contrast_weight": (1e-6, 5e-6, 1e-3),
        "model.orthogonal_weight": (1e-5, 5e-5, 5e-4),
        "model.user_co_weight": (0.4, 0.7, 0.9),
    }
