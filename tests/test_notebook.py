from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "colab").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_notebook_is_short_and_holds_no_outputs(notebook):
    assert len(notebook.cells) <= 20
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(zmq|jupyter_client|nbclient).*")
def test_notebook_runs_from_its_folder(notebook, monkeypatch):
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # else jupyter_core warns
    folder = {"metadata": {"path": str(NOTEBOOKS[0].parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=folder).execute()
    text = str([cell.get("outputs") for cell in notebook.cells])
    for shown in ("recall", "image/png", "score"):  # the table, the curves, recommendations
        assert shown in text
