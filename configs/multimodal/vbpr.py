r"""VBPR.

    python launch.py --config=configs/multimodal/vbpr.py:debug --workdir=runs/vbpr_debug
    python launch.py --config=configs/multimodal/vbpr.py:lastfm2k --workdir=runs/vbpr \
        --config.data.source=DIR/lfm2k.inter

Published for Baby (MMRec's table; test recall@20 / NDCG@20): .0663 / .0284. MMRec itself on
Last.fm-2K, seeds 999 and 42, settings of ``lastfm2k``: .2866 and .2948 / .1925 and .1934.

Variants: ``lastfm2k`` (the two modalities that MMRec was given), ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "multimodal.vbpr"
    config.model.dim = 64
    config.model.reg_weight = 1e-2
    lastfm2k = {
        "data.features": ("all-MiniLM-L6-v2.npy", "vggish.npy"),
        "model.reg_weight": 1e-2,
    }
    return base.parse(config, arg, lastfm2k=lastfm2k)


def sweep() -> dict[str, tuple]:
    """MMRec's grid."""
    return {"model.reg_weight": (2.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}
