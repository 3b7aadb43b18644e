r"""SASRec.

    python launch.py --config=configs/sequence/sasrec.py:debug --workdir=runs/sasrec_debug
    python launch.py --config=configs/sequence/sasrec.py:beauty --workdir=runs/sasrec \
        --config.data.source=DIR/sequences.txt

Beauty (5-core, 22,363 users, 12,101 items), leave-one-out, all items ranked, HR@10 / NDCG@10 on
test; ours stand in the README. Published, with cross-entropy: .0830 / .0416 and .0821 / .0405
(users of RecBole, whose layers differ: RecBole issue 1290, LETTER issue 20); with softmax over 256
sampled negatives .0921 / .0531 (Tikhonovich et al., "eSASRec", RecSys 2025,
https://arxiv.org/abs/2508.06450, same 22,363 sequences). With one negative: .0605 / .0318 (as
reported there, after TIGER, NeurIPS 2023).

Variants: ``beauty``; ``bce``, one negative, as the authors; ``gbce``, gSASRec with its 256
negatives; ``sampled``, softmax over 256 sampled items; ``popular``, those drawn by popularity and
corrected for it; ``debug``, ``synthetic``.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.split = "leave_one_out"
    config.model.name = "sequence.sasrec"
    config.model.dim = 64
    config.model.layers = 2
    config.model.heads = 1
    config.model.dropout = 0.5
    config.model.objective = "ce"  # or bce, sampled, gbce
    config.model.num_negatives = 1  # read by all but ce
    config.model.sampler = "uniform"  # or popularity
    config.model.calibration = 0.75  # of gbce
    config.model.norm = "original"  # or pre, post
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
