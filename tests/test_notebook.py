"""The demo's notebook: it was executed, and its cells run, here with smaller counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "demo.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
SMALLER = {
    "from IPython.display import Image\n": "",  # Jupyter is no dependency of the tests
    'preset("digits-ipc1")': 'preset("digits-ipc1").replace(model="convnet-d1-w4")',
    "recipe=cell.method.expert, count=cell.experts.count": "recipe=cell.method.expert.replace(epochs=3), count=1",
    "method=cell.method,": "method=cell.method.replace(step=cell.method.step.replace(syn_steps=3, max_start_epoch=1)),",
    "settings=cell.distill": "settings=cell.distill.replace(iterations=2)",
    "recipe=cell.evaluation.recipe, seeds=5": "recipe=cell.evaluation.recipe.replace(epochs=2), seeds=2",
    "epochs=300": "epochs=2",
}


def test_it_was_executed_to_the_end_and_holds_its_pictures() -> None:
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("n = 5, protocol MTT" in "".join(output.get("text", "")) for output in outputs)


@pytest.mark.slow
@pytest.mark.drawn
def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []
    monkeypatch.chdir(tmp_path)
    code = "\n".join("".join(cell["source"]) for cell in CELLS)
    for text, smaller in SMALLER.items():
        assert text in code
        code = code.replace(text, smaller)
    exec(code, {"Image": shown.append})
    assert shown == ["quality.png", "images.png"]
    assert all((tmp_path / picture).stat().st_size > 1000 for picture in shown)
    assert "a linear classifier" in capsys.readouterr().out
