"""The log of a run, and TensorBoard's events."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from mmrec_jax import logs


def test_log_rewinds_to_the_epoch_resumed_from(tmp_path):
    log = logs.Log(tmp_path)
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch, "loss": np.float32(1 / epoch), "valid/recall@20": 0.1 * epoch})
    assert len(logs.read(tmp_path)) == 3  # readable at once, before the file is closed
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    assert [record["epoch"] for record in logs.read(tmp_path)] == [1, 2, 3]

    resumed = logs.Log(tmp_path)
    resumed.rewind(2)
    resumed.write({"epoch": 3, "loss": 0.25})
    resumed.close()
    records = logs.read(tmp_path)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[0] == {"epoch": 1, "loss": 1.0, "valid/recall@20": 0.1}
    assert records[2] == {"epoch": 3, "loss": 0.25}
    log.close()


def events(workdir) -> list:
    """The TensorBoard events of a run, read back record by record, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((workdir / "events").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length [8], its checksum [4], the event, its checksum [4]
            size = int.from_bytes(data[at : at + 8], "little")
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def test_tensorboard_gets_the_numbers_and_is_told_where_a_resumed_run_starts(tmp_path):
    log = logs.Log(tmp_path)
    log.write({"epoch": 1, "loss": 0.5})
    log.write({"epoch": 2, "loss": 0.25})
    log.rewind(1)
    log.write({"epoch": 2, "loss": 0.125, "valid/recall@20": None})
    log.close()
    found = events(tmp_path)
    scalars = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    assert sorted(scalars) == [(1, "loss", 0.5), (2, "loss", 0.125), (2, "loss", 0.25)]
    assert [e.step for e in found if e.HasField("session_log")] == [1, 2]


def test_writing_events_loads_no_pytorch_though_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("")
    code = (
        "import sys; from pathlib import Path; from mmrec_jax.logs import Events\n"
        f"events = Events(Path({str(tmp_path)!r}) / 'events', 0)\n"
        "events.write({'epoch': 1, 'loss': 0.5}); events.close()\n"
        "assert 'torch' not in sys.modules; import torch"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
