"""Every configuration key, once, with its meaning; the other files state only differences."""

from __future__ import annotations

import difflib
from typing import Any

from ml_collections import ConfigDict

from mmrec_jax.types import UserError

# Ends within a minute on a laptop; enough to see that everything runs, not to learn much.
DEBUG = {
    "data.source": "synthetic",
    "data.features": (),
    "data.item_graphs": (),
    "data.knobs.num_users": 200,
    "data.knobs.num_items": 120,
    "train.epochs": 3,
    "train.batch_size": 512,
    "eval.block": 128,
}


def get_config() -> ConfigDict:
    """The defaults that every method's file starts from."""
    config = ConfigDict()
    config.seed = 0  # seeds initialisation, order, negatives and dropout; nothing else is random

    data = config.data = ConfigDict()
    data.source = "synthetic"  # a built-in or TFDS name, or the path of a file or folder
    data.columns = ConfigDict()  # column names of a plain table; "" means: guess from usual names
    data.columns.user = ""
    data.columns.item = ""
    data.columns.time = ""
    data.columns.rating = ""
    data.columns.label = ""  # 0 train, 1 valid, 2 test
    data.columns.click = ""  # 0 or 1, where rows are impressions
    data.columns.conversion = ""  # 0 or 1, likewise
    data.features = ()  # feature files to read; empty: all that lie beside the interactions
    data.item_graphs = ()  # .npz files (row, col, data, shape) of ready-made item graphs
    # semantic codes of the items: a tokenizer run's workdir, a codes.parquet or an .index.json; or
    # features: made of the item features on the spot; "": none
    data.codes = ""
    data.forget = ""  # a table of users, items or (user, item) to load the data without
    # for --mode=leak: preferences to train on though test may ask for them, a table or test=0.5
    data.leak = ""
    # MODALITY:zero|mean|noise|shuffle|missing=0.3, several joined by ";", "*" for all modalities
    data.knockout = ""
    data.knockout_seed = 0  # of the noise, of new places and of which rows go missing
    data.impute = "zero"  # missing feature rows: zero | mean | knn | graph; see docs/ablation.md
    data.collisions = "error"  # items that share all codes: error | move (change their last one)
    # label | ratio (per user) | leave_one_out (by time) | time (one moment for all users) |
    # item_cold, user_cold (shares of the items or users, with all their interactions) |
    # auto (label where there are labels, else leave_one_out where there are times, else ratio)
    data.split = "auto"
    data.ratios = (0.8, 0.1, 0.1)  # train, valid, test; also what "label" carves if none is valid
    data.split_seed = 0  # of the random choices of "ratio", of the cold splits and of that carving
    data.k_core = 0  # drop users and items with fewer interactions, repeatedly; 0 keeps all
    data.max_len = 50  # longest history a sequence method reads
    # training interactions held at once; of more, a prepared set leaves the rest on disk and an
    # epoch reads it part by part; 0 holds all; see docs/scale.md
    data.budget = 0
    data.impressions = False  # rows are impressions with fields; only clicks are interactions
    data.fields = ()  # columns to take as fields; empty: all that have no other role
    data.numeric = ()  # fields of numbers, besides those with fractions: cut at quantiles
    data.buckets = 10  # into so many ranges
    data.click_rating = 0.0  # ratings from here on are clicks; 0: the column click tells
    data.conversion_rating = 0.0  # ratings from here on are conversions; 0: their column, if any
    knobs = data.knobs = ConfigDict()  # of the synthetic set
    knobs.num_users = 1000
    knobs.num_items = 600
    knobs.mean_interactions = 20.0  # per user
    knobs.factors = 16  # width of the planted user and item factors
    knobs.image_dim = 64  # width of the "image" features, which show the first 2/3 of the factors
    knobs.text_dim = 32  # width of the "text" features, which show the last 2/3
    knobs.noise = 0.5  # deviation of the features' noise; what they show has about 1
    knobs.taste = 10.0  # how far factors decide an interaction; 0 leaves popularity alone
    knobs.drift = 0.3  # share of a user's taste that is exchanged from first to last interaction
    knobs.popularity = 0.6  # exponent of the power law of item popularity; 0 is uniform
    knobs.cold = 0.05  # share of items without training interactions
    knobs.missing = 0.05  # share of items without a feature row, drawn for each modality
    knobs.seed = 0  # of everything that is drawn

    # name = module below mmrec_jax/models, then the method's own fields
    config.model = ConfigDict()
    config.model.name = ""

    table = config.table = ConfigDict()  # what stands in for the embedding tables, in any method
    table.item = "id"  # id | features | both (id and features) | hashed | motor
    table.user = "id"  # id | hashed (one table with the items, if they are hashed)
    table.modalities = ()  # whose features or tokens the items have; empty: all
    table.hidden = 0  # width of a hidden layer between features and vectors; 0: linear
    table.hash_rows = 0  # rows of the hashed table; 0: as many as there are ids that look it up
    table.hash_width = 16  # its columns; a vector of model.dim takes model.dim / hash_width rows
    table.codebooks = 8  # motor: tokens of an item, for each modality
    table.codebook_size = 256  # motor: different tokens at each place
    table.token_dim = 16  # motor: width of the embedding of a token
    table.cross_layers = 2  # motor

    optim = config.optim = ConfigDict()
    optim.name = "adam"  # adam | adamw | sgd | adagrad | rmsprop
    optim.lr = 1e-3
    optim.weight_decay = 0.0  # decoupled for adamw, else added to the gradient
    optim.clip_norm = 0.0  # largest global norm of a gradient; 0 does not clip
    optim.schedule = "constant"  # constant | cosine | linear | exponential, over all steps
    optim.warmup_steps = 0
    optim.decay_rate = 0.96  # of the exponential schedule, per 50 epochs

    train = config.train = ConfigDict()
    train.epochs = 1000
    train.batch_size = 2048
    # or bfloat16: parameters stay float32, the loss computes in bfloat16
    train.precision = "float32"

    evals = config.eval = ConfigDict()
    evals.every = 1  # epochs between validations
    # the run bears so many validations without improvement, as MMRec does; 0 never stops
    evals.patience = 20
    evals.metric = "recall@20"  # what is improved, on validation
    evals.metrics = ("recall", "ndcg", "precision", "map", "mrr", "hit")
    evals.ks = (5, 10, 20, 50)
    # mmrec masks training items; strict also validation items at test; none
    evals.protocol = "mmrec"
    evals.block = 512  # queries ranked at a time
    evals.users = 0  # ask only so many users, drawn once and for all; 0 asks all

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 10  # epochs between saves, besides the one at each new best

    mesh = config.mesh = ConfigDict()  # the devices of one run; see docs/devices.md
    mesh.data = 1  # divide the examples of a batch, and queries, by so many
    mesh.model = 1  # divide tables, and the items that are scored, by so many
    mesh.tables = "columns"  # of a table divide the columns, or the rows

    unlearn = config.unlearn = ConfigDict()  # of --mode=unlearn; see docs/unlearning.md
    unlearn.alpha = 0.03  # weight of what is to be forgotten; what stays has 1 - alpha
    unlearn.epochs = 30  # at most, over what stays; ends once the forgotten rank like the unseen
    unlearn.lr = 1e-3  # constant
    unlearn.retrain = True  # also train anew without the forgotten, to compare with

    sweep = config.sweep = ConfigDict()  # of --mode=sweep; see docs/sweep.md
    # loop | vmap | map | devices | auto (loop on a CPU, else whichever proves fastest)
    sweep.mode = "auto"
    sweep.trials = 0  # settings to draw at random, each run with every seed; 0 takes the whole grid
    sweep.seed = 0  # of that drawing
    sweep.halving = 0  # at each rung the best 1/halving of the settings go on; 0 trains all fully
    sweep.min_epochs = 10  # of the first rung; each further one is halving times as long
    sweep.max_members = 0  # runs at once in vmap and map; 0 forecasts what the memory holds
    sweep.test = "winner"  # winner | all: which runs are tested, after the choice is made
    return config


def parse(config: ConfigDict, arg: str | None, **words: dict[str, Any]) -> ConfigDict:
    """Applies the variants named after a config file, as in ``FILE.py:lastfm2k,debug``, in order.

    Args:
      config: changed in place, and returned.
      arg: words separated by commas; None or "" for none.
      **words: the file's own variants, each ``{dotted key: value}``; ``debug`` (small synthetic
        data, three epochs) and ``synthetic`` (the data alone) are always there.

    Raises:
      UserError: an unknown word.
    """
    known = {"debug": DEBUG, "synthetic": {"data.source": "synthetic"}, **words}
    for word in (arg or "").split(","):
        if not word:
            continue
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise UserError(f"config variant {word!r}: {meant}known: {', '.join(sorted(known))}")
        config.update_from_flattened_dict(known[word])
    return config
