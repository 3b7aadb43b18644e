r"""SASRec.

    python launch.py --config=configs/sequence/sasrec.py:debug --workdir=runs/sasrec_debug
    python launch.py --config=configs/sequence/sasrec.py:beauty --workdir=runs/sasrec \
        --config.data.source=DIR/sequences.txt

Variants: ``beauty``, ``debug``, ``synthetic``.
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
    config.model.objective = "ce"  # or bce, as the authors
    config.model.norm = "original"  # or pre, post
    config.train.batch_size = 256
    config.eval.metric = "ndcg@10"
    config.eval.protocol = "strict"
    return base.parse(config, arg, beauty={})
