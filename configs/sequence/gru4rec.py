r"""GRU4Rec.

    python launch.py --config=configs/sequence/gru4rec.py:debug --workdir=runs/gru4rec_debug
    python launch.py --config=configs/sequence/gru4rec.py:beauty --workdir=runs/gru4rec \
        --config.data.source=DIR/sequences.txt

Layers and rates are RecBole's. Beauty (5-core, 22,363 users, 12,101 items), leave-one-out, all
items ranked, HR@10 / NDCG@10 on test; ours stand in docs/sequence.md.

Variants: ``beauty``; ``bce``, one negative, ``gbce`` and ``sampled``, 256 negatives, ``popular``,
256 negatives drawn by popularity and corrected for it; ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.split = "leave_one_out"
    config.model.name = "sequence.gru4rec"
    config.model.dim = 64
    config.model.hidden = 128
    config.model.layers = 1
    config.model.dropout = 0.3
    config.model.objective = "ce"  # or bce, sampled, gbce
    config.model.num_negatives = 1  # read by all but ce
    config.model.sampler = "uniform"  # or popularity
    config.model.calibration = 0.75  # of gbce
    config.train.batch_size = 256
    config.eval.metric = "ndcg@10"
    config.eval.protocol = "strict"
    beauty = {"eval.every": 2, "eval.patience": 8, "train.epochs": 160}
    sampled = {"model.objective": "sampled", "model.num_negatives": 256}
    return base.parse(
        config,
        arg,
        beauty=beauty,
        bce={"model.objective": "bce", "model.num_negatives": 1},
        gbce={"model.objective": "gbce", "model.num_negatives": 256},
        sampled=sampled,
        popular=sampled | {"model.sampler": "popularity"},
    )


def sweep() -> dict[str, tuple]:
    """RecBole's ranges."""
    return {
        "model.dropout": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
        "model.layers": (1, 2, 3),
    }
