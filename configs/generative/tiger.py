r"""TIGER.

    python launch.py --config=configs/generative/tiger.py:debug --workdir=runs/tiger_debug
    python launch.py --config=configs/generative/tiger.py:beauty --workdir=runs/tiger_ready \
        --config.data.source=DIR/beauty_codes --config.data.codes=Beauty.index.json \
        --config.data.collisions=move
    python launch.py --config=configs/generative/tiger.py:beauty --workdir=runs/tiger_own \
        --config.data.source=DIR/beauty/sequences.txt --config.data.codes=TOKENIZER_WORKDIR

Beauty (5-core, 22,363 users, 12,101 items), leave-one-out, recall@5 / ndcg@5 / recall@10 /
ndcg@10 on test; ours stand in docs/semantic.md. The paper: .0454 / .0321 / .0648 / .0384. Public
reconstructions: .0392 / .0257 / .0594 / .0321 (XiaoLongtaoo/TIGER, and .0343 / .0229 / .0559 /
.0298 by a user of it, issue 6); .0376 / .0252 / .0582 / .0319 (NonameUntitled/tiger).

The ready codes are those of HonghuiBao2000/LETTER; 13 of their items share all four codes with
another and are moved to free ones.

Variants: ``beauty``, a size for a CPU; ``paper``, the paper's size and encoder on the same data;
``debug``, ``synthetic`` (both with codes made of the features on the spot).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.split = "leave_one_out"
    config.data.max_len = 20
    config.model.name = "generative.tiger"
    config.model.dim = 128
    config.model.layers = 4
    config.model.heads = 6
    config.model.head_dim = 64
    config.model.hidden = 1024
    config.model.dropout = 0.1
    config.model.user_tokens = 2000
    config.model.causal = False  # True: the encoder looks back only, and one pass teaches more
    config.model.beams = 50
    config.optim.lr = 1e-3
    config.optim.clip_norm = 1.0
    config.optim.warmup_steps = 500
    config.train.epochs = 200
    config.train.batch_size = 256
    config.eval.every = 10
    config.eval.patience = 5
    config.eval.metric = "ndcg@10"
    config.eval.protocol = "strict"
    config.eval.ks = (5, 10, 20)
    small = {
        "model.layers": 2,
        "model.heads": 2,
        "model.hidden": 512,
        "model.beams": 30,
        "model.causal": True,
        "optim.lr": 2e-3,
        "optim.schedule": "cosine",
        "train.batch_size": 128,
        "train.epochs": 40,
    }
    planted = {"data.source": "synthetic", "data.codes": "features"}
    tiny = {
        "model.layers": 1,
        "model.heads": 4,
        "model.head_dim": 16,
        "model.hidden": 256,
        "model.dropout": 0.02,
        "model.user_tokens": 1,
        "model.causal": True,
        "optim.warmup_steps": 0,
    }
    words = {"beauty": small, "paper": {}, "synthetic": planted}
    return base.parse(config, arg, debug={**base.DEBUG, **planted, **tiny}, **words)
