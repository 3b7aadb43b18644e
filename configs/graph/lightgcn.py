"""LightGCN."""

from configs import base


def get_config(arg=None):
    config = base.get_config()
    config.model.name = "graph.lightgcn"
    config.model.dim = 64
    config.model.layers = 2
    config.model.reg_weight = 1e-3
    return config
