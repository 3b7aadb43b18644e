from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from configs import base
from mmrec_jax.types import Recommender, UserError

ROOT = Path(__file__).parents[1] / "configs"
FILES = sorted(str(p.relative_to(ROOT).with_suffix("")) for p in ROOT.glob("*/*.py"))


@pytest.mark.parametrize("name", FILES)
def test_config_names_a_method_and_only_its_fields(name):
    module = importlib.import_module("configs." + name.replace("/", "."))
    config = module.get_config("debug")
    method = importlib.import_module(f"mmrec_jax.models.{config.model.name}").Model
    assert issubclass(method, Recommender)
    assert config.model.name == name.replace("/", ".")
    fields = {field.name for field in dataclasses.fields(method)}
    assert set(config.model) - {"name"} <= fields
    assert config.data.source == "synthetic"
    assert module.get_config().train.epochs > config.train.epochs or not config.train.epochs
    if hasattr(module, "sweep"):
        full = {f"model.{key}" for key in config.model} | {f"optim.{key}" for key in config.optim}
        assert all(key in full or f"model.{key}" in full for key in module.sweep())


def test_variants_apply_in_order():
    config = base.parse(base.get_config(), "big,debug", big={"train.batch_size": 8192})
    assert config.train.batch_size == base.DEBUG["train.batch_size"]
    config = base.parse(base.get_config(), "debug,big", big={"train.batch_size": 8192})
    assert config.train.batch_size == 8192
    assert base.parse(base.get_config(), None).to_dict() == base.get_config().to_dict()


def test_unknown_variant_is_an_error_with_a_suggestion():
    with pytest.raises(UserError, match=r"'debgu': did you mean 'debug'\? known: debug, synthetic"):
        base.parse(base.get_config(), "debgu")


def test_every_variant_of_freedom_fits_its_method():
    from configs.multimodal import freedom

    for arg in ("baby", "lastfm2k", "image_text", "lastfm2k,debug"):
        config = freedom.get_config(arg)
        assert isinstance(config.model.modality_weights, tuple)
    assert freedom.get_config("lastfm2k,debug").model.modality_weights == ()
