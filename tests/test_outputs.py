"""Stored outputs: pictures that a repository browser shows, and a digest of the code."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from cepnb.errors import CepnbError
from cepnb.tools import outputs

CODE = """
from cepnb.notebook import plots
from cepnb.notebook.film import show_films
from cepnb.notebook.sliders.frames import beta_slider
from cepnb.notebook.sliders.widgets import Explorer

def frame(beta):
    made, axes = plots.figure(size=1)
    axes[0, 0].plot([0, beta])
    return made

Explorer(frame, beta_slider([1.0, 2.0], 2.0), "a line")
"""
SPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "00_lines.ipynb"
    sources = [CODE, 'plots.picture(frame(3.0), "a < line")', "print(1 + 1)"]
    cells = [new_markdown_cell("# Lines"), *map(new_code_cell, sources)]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": SPEC})
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


def test_outputs_are_pictures_of_the_code(path: Path) -> None:
    outputs.store([path])
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    explorer, picture, number = (cell.outputs[0] for cell in outputs.code_cells(notebook))
    for output, alt in ((explorer, "a line"), (picture, "a < line")):
        assert set(output.data) == {"image/png", "text/plain"} and output.data["text/plain"] == alt
        assert output.metadata["image/png"]["alt"] == alt
    assert number.text == "2\n"
    assert set(notebook.metadata) == {"kernelspec", "cepnb"} and outputs.up_to_date(notebook)
    before = path.read_bytes()
    outputs.store([path])
    assert path.read_bytes() == before  # skipped
    notebook.cells[0].source = "# Other text"
    assert outputs.up_to_date(notebook)
    notebook.cells[3].source = "print(1 + 2)"
    assert not outputs.up_to_date(notebook)


def test_a_failing_or_too_large_notebook_keeps_its_file(path: Path, monkeypatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(outputs, "LARGEST", 1_000)
    with pytest.raises(CepnbError, match="00_lines.ipynb: .* bytes with outputs, more than 1,000"):
        outputs.store([path])
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].source = "1 / 0"
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    with pytest.raises(CepnbError, match="cell 4: ZeroDivisionError: division by zero"):
        outputs.store([path])
    path.write_bytes(before)
    outputs_of = [cell.outputs for cell in outputs.code_cells(nbformat.read(path, as_version=4))]
    assert not any(outputs_of)


def test_wrong_numbers_are_one_line(path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["outputs", "--notebooks", str(path.parent), "07"])
    assert outputs.main() == 2
    assert "07: no notebook has this number; use one such as 03" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["outputs", "--notebooks", str(path.parent / "none")])
    assert outputs.main() == 2
    assert "no notebook found" in capsys.readouterr().err
