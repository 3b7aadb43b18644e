from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    config = base.get_config()
    config.data.split = "leave_one_out"
    config.data.max_len = 20
    config.model.name = "generative.tiger"
    config.model.dim = 128
    config.model.layers = 2
    config.model.heads = 4
    config.model.head_dim = 32
    config.model.hidden = 512
    config.model.dropout = 0.1
    config.model.user_tokens = 2000
    config.model.causal = True
    config.model.beams = 50
    config.optim.lr = 1e-3
    config.train.epochs = 60
    config.train.batch_size = 128
    config.eval.every = 10
    config.eval.metric = "ndcg@10"
    config.eval.protocol = "strict"
    config.eval.ks = (5, 10, 20)
    planted = {"data.source": "synthetic", "data.codes": "features"}
    return base.parse(
        config, arg, debug={**base.DEBUG, **planted, "data.max_len": 10}, synthetic=planted
    )
