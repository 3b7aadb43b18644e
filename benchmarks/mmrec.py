"""Times MMRec's own trainer and evaluation, from a checkout that the user has, on our data.

MMRec runs in a process of its own and in a temporary folder; the checkout is only read. It was
written for older numpy and scipy: what they have dropped since is put back from outside. Needs
``torch``, ``pandas``, ``scipy`` and ``PyYAML`` in that process, and nothing of this package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np

# The settings of our configurations, in MMRec's names; it takes lists for what it searches.
SETTINGS = {
    "LightGCN": {"n_layers": [2], "reg_weight": [1e-3]},
    "VBPR": {"reg_weight": [1e-2]},
    "BM3": {"n_layers": [1], "reg_weight": [0.1], "dropout": [0.3]},
    "FREEDOM": {"dropout": [0.8], "reg_weight": [1e-3]},
}
_FILES = {"vision_feature_file": "image", "text_feature_file": "text"}
_STUBS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "lmdb")
_STUBS += ("PIL", "PIL.Image", "matplotlib", "matplotlib.pyplot")


def mmrec_epoch(
    checkout: str | Path, model: str, data, *, epochs: int = 5, threads: int = 2, settings=None
) -> dict[str, object]:
    """Seconds that MMRec takes on ``data``, medians over ``epochs`` epochs.

    Args:
      checkout: folder of MMRec, with ``src`` in it.
      model: a key of ``SETTINGS``, or any model of MMRec if ``settings`` are given.
      data: a ``Dataset`` with ``image`` and ``text`` features if the model reads them.
      epochs: epochs to run; each ends with a validation and a test.
      threads: of torch.
      settings: configuration of MMRec in place of ``SETTINGS[model]``.

    Returns:
      ``epoch_s``, ``valid_s``, ``test_s``, ``peak_memory_bytes`` of the process, and ``result``,
      MMRec's metrics at the last test.

    Raises:
      UserError: if there is no checkout, or MMRec fails.
    """
    from mmrec_jax.types import UserError  # not at the top: the other process has no JAX

    source = Path(checkout).resolve() / "src"
    if not (source / "utils" / "quick_start.py").exists():
        raise UserError(f"{checkout} is no checkout of MMRec: it has no src/utils/quick_start.py")
    settings = SETTINGS[model] if settings is None else settings
    with tempfile.TemporaryDirectory() as folder:
        write(data, Path(folder) / "bench")
        (Path(folder) / "configs").symlink_to(source / "configs")
        job = {"source": str(source), "model": model, "threads": threads}
        job["config"] = {**_config(Path(folder), epochs), **settings}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, json.dumps(job)],
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
        times = Path(folder) / "times.json"
        if done.returncode or not times.exists():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"MMRec's {model} in {checkout} failed: {reason}")
        measured = json.loads(times.read_text())
    medians = {name: statistics.median(measured.pop(name)) for name in ("epoch_s", "valid_s")}
    return {**medians, "test_s": statistics.median(measured.pop("test_s")), **measured}


def write(data, folder: Path) -> None:
    """Writes ``data`` as MMRec reads it: ``bench.inter`` and a ``.npy`` per modality."""
    folder.mkdir(parents=True)
    parts = (data.train, data.valid, data.test)
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("user", "item")]
    columns.append(np.repeat([0, 1, 2], [len(part) for part in parts]))
    table = np.stack(columns, axis=1)
    header = "userID\titemID\tx_label"
    np.savetxt(folder / "bench.inter", table, "%d", "\t", header=header, comments="")
    for name, values in data.features.items():
        np.save(folder / f"{name}.npy", values)


def _config(folder: Path, epochs: int) -> dict[str, object]:
    """What MMRec would read from a data set's own file, and how long to run."""
    return {
        "data_path": f"{folder}/",
        "inter_file_name": "bench.inter",
        "USER_ID_FIELD": "userID",
        "ITEM_ID_FIELD": "itemID",
        "field_separator": "\t",
        **{key: f"{name}.npy" for key, name in _FILES.items()},
        "use_gpu": False,
        "gpu_id": 0,
        "seed": [999],
        "epochs": epochs,
        "stopping_step": epochs,
        "save_recommended_topk": False,
    }


def _run(job: dict) -> None:
    """The other process: trains, and writes ``times.json`` into the current folder."""
    sys.path.insert(0, job["source"])
    mend()
    import torch

    torch.set_num_threads(job["threads"])
    from common.trainer import Trainer  # type: ignore[import-not-found]
    from utils.quick_start import quick_start  # type: ignore[import-not-found]

    times: dict = {"epoch_s": [], "valid_s": [], "test_s": []}
    train, validate, fit = Trainer._train_epoch, Trainer._valid_epoch, Trainer.fit
    began = [0.0]

    def timed_fit(self, *args, **kwargs):
        prepare = self.model.pre_epoch_processing

        def timed_prepare():
            began[0] = time.perf_counter()
            prepare()

        self.model.pre_epoch_processing = timed_prepare
        return fit(self, *args, **kwargs)

    def timed_train(self, *args, **kwargs):
        result = train(self, *args, **kwargs)
        times["epoch_s"].append(time.perf_counter() - began[0])
        return result

    def timed_validate(self, *args, **kwargs):
        start = time.perf_counter()
        score, result = validate(self, *args, **kwargs)
        which = "valid_s" if len(times["valid_s"]) == len(times["test_s"]) else "test_s"
        times[which].append(time.perf_counter() - start)
        times["result"] = {name: float(value) for name, value in result.items()}
        return score, result

    Trainer.fit, Trainer._train_epoch, Trainer._valid_epoch = timed_fit, timed_train, timed_validate
    quick_start(job["model"], "bench", job["config"], save_model=False)
    times["peak_memory_bytes"] = _peak_memory()
    Path("times.json").write_text(json.dumps(times))


def mend() -> None:
    """Puts back what newer numpy and scipy lack, and stands in for what no model here calls."""
    import scipy.sparse as sp

    np.float = float  # type: ignore[attr-defined]
    if hasattr(sp.dok_matrix((1, 1)), "_dict"):
        plain = lambda entries: {(int(a), int(b)): np.float32(v) for (a, b), v in entries.items()}
        sp.dok_matrix._update = lambda self, entries: self._dict.update(plain(entries))
    for name in _STUBS:
        try:
            found = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            found = False
        if not found:
            sys.modules[name] = _Stub(name)


class _Stub(types.ModuleType):
    """A module of which every name can be imported."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _peak_memory() -> int:
    """Most bytes this process had in memory; Linux counts the parent's in ``ru_maxrss``."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
