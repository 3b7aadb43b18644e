r"""HSTU.

    python launch.py --config=configs/sequence/hstu.py:debug --workdir=runs/hstu_debug
    python launch.py --config=configs/sequence/hstu.py:beauty --workdir=runs/hstu \
        --config.data.source=DIR/sequences.txt

``beauty`` takes the settings that the authors' code has for Amazon Books with histories of 50.
Beauty (5-core, 22,363 users, 12,101 items), leave-one-out, all items ranked, HR@10 / NDCG@10 on
test; ours stand in docs/sequence.md. The paper has no numbers on Beauty; phonism/genrec (commit
0013952) reports .0708 / .0412, with the reviews' times, which ``sequences.txt`` has not.

Variants: ``beauty``; ``ce``; ``bce``, one negative, ``gbce`` and ``sampled``, 256 negatives,
``popular``, 256 negatives drawn by popularity and corrected for it; ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.split = "leave_one_out"
    config.model.name = "sequence.hstu"
    config.model.dim = 64
    config.model.layers = 4
    config.model.heads = 4
    config.model.head_dim = 16
    config.model.dropout = 0.2
    config.model.buckets = 128
    config.model.temperature = 0.05
    config.model.objective = "sampled"  # or ce, bce, gbce
    config.model.num_negatives = 128  # read by all but ce
    config.model.sampler = "uniform"  # or popularity
    config.model.calibration = 0.75  # of gbce
    config.train.batch_size = 128
    config.eval.metric = "ndcg@10"
    config.eval.protocol = "strict"
    beauty = {
        "model.dropout": 0.5,
        "model.num_negatives": 512,
        "eval.every": 2,
        "eval.patience": 8,
        "train.epochs": 200,
    }
    sampled = {"model.objective": "sampled", "model.num_negatives": 256}
    return base.parse(
        config,
        arg,
        beauty=beauty,
        ce={"model.objective": "ce"},
        bce={"model.objective": "bce", "model.num_negatives": 1},
        gbce={"model.objective": "gbce", "model.num_negatives": 256},
        sampled=sampled,
        popular=sampled | {"model.sampler": "popularity"},
        # Some 100 items need no such sharp cosines, which take long to learn popularity.
        debug=base.DEBUG | {"model.layers": 2, "model.heads": 1, "model.temperature": 0.2},
    )
