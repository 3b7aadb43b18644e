r"""ItemKNN, on behaviour or on content.

    python launch.py --config=configs/baseline/itemknn.py:debug --workdir=runs/itemknn_debug
    python launch.py --config=configs/baseline/itemknn.py --workdir=runs/itemknn \
        --config.data.source=DIR/lfm2k.inter
    python launch.py --config=configs/baseline/itemknn.py:content --workdir=runs/itemknn_content \
        --config.data.source=DIR/lfm2k.inter

Nothing is trained. Test recall@20 / NDCG@20 here, MMRec's protocol, k 100 and shrink 10: Baby
.0482 / .0253, Last.fm-2K .3885 / .2701; content on Last.fm-2K (vggish and MiniLM side by side,
k 10, shrink 0): .0664 / .0399.

Variants: ``content``, ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.model.name = "baseline.itemknn"
    config.model.signal = "behaviour"
    config.model.k = 100
    config.model.shrink = 10.0
    config.train.epochs = 0
    return base.parse(
        config,
        arg,
        debug={**base.DEBUG, "train.epochs": 0},
        content={"model.signal": "content", "model.k": 10, "model.shrink": 0.0},
    )


def sweep() -> dict[str, tuple]:
    return {"model.k": (10, 20, 50, 100, 200), "model.shrink": (0.0, 10.0, 100.0)}
