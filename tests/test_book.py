"""The book: built from two small notebooks, read in a real browser from file:// with the network cut, and refused when it should be."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from payload import payload
from playwright.sync_api import Page, expect

from cepnb.errors import CepnbError
from cepnb.tools.book import execution, site

FIRST = [
    r"""# 00 · Circles

**Goal.** See $\mathcal E_t$ move.

[Squares →](01_squares.ipynb)

$$p_t=\frac1Z\,q_t\,e^{-\mathcal E_t} \tag{10}$$

| a | table | that | is | wider | than | a | phone |
|---|---|---|---|---|---|---|---|
| `one_long_name` | `one_long_name` | `one_long_name` | `one_long_name` | `one_long_name` | `one_long_name` | `one_long_name` | end |
""",
    """
import torch
from cepnb import plots
from cepnb.notebook.explorer.frames import ANY_BETA, Panel, beta_slider
from cepnb.notebook.explorer.layers import Points
from cepnb.notebook.explorer.widgets import BetaExplorer, Explorer

angle, beta = torch.linspace(0, 6.28, 500), beta_slider([1.0, 2.0, 3.0], 2.0)
ring = torch.stack([angle.cos(), angle.sin()], dim=1)
circles = Points(torch.stack([b * ring for b in beta.values]), ("beta",), "circle", ANY_BETA)
BetaExplorer([beta], [Panel(f"panel {k}", (circles,)) for k in range(3)], "Three circles")""",
    """
def frame(t):
    figure, axes = plots.figure(3)
    axes[0, 0].plot([0, t])
    return figure

Explorer(frame, [0.1, 0.5, 1.0], "time t", "A line", start=0.5)""",
    """
BetaExplorer([beta], [Panel("again", (circles,))], "One circle")""",
]
SECOND = [
    """# 01 · Squares

**Goal.** Meet a walrus.

[← Circles](00_circles.ipynb)""",
    """
import sys
from IPython.display import Markdown
from tqdm.auto import tqdm

for _ in tqdm(range(3), desc="a bar that goes", leave=False), tqdm(range(3), desc="a bar that stays"):
    list(_)
print("a line for nobody", file=sys.stderr)
print("a line for the reader")
Markdown("$\\\\displaystyle x^2$ as an output")""",
]
PAINTED = "canvas => canvas.toDataURL()"
SIZE = "node => [node.offsetWidth, node.offsetHeight]"
STICKING_OUT = """() => [...document.querySelectorAll("article *")].filter(node => {
    for (let above = node; above !== document.body; above = above.parentElement) {
        if (getComputedStyle(above).overflowX !== "visible") return false;
    }
    const box = node.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > document.documentElement.clientWidth);
}).map(node => node.outerHTML.slice(0, 80))"""


def write(folder: Path, name: str, cells: list[str]) -> Path:
    """A notebook: text that begins with a heading, then code."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = [
        new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell.strip())
        for cell in cells
    ]
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(metadata=kernel, cells=made), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def make(folder: Path) -> subprocess.CompletedProcess:
    """What `make book` does, for the notebooks of another folder."""
    command = [
        sys.executable,
        "-m",
        "cepnb.tools.book",
        "--notebooks",
        "notebooks",
        "--out",
        "book",
        "--work",
        "work",
    ]
    environment = {
        **os.environ,
        "CEPNB_PROFILE": "ci",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two notebooks and their book."""
    folder = tmp_path_factory.mktemp("book")
    write(folder / "notebooks", "00_circles", FIRST)
    write(folder / "notebooks", "01_squares", SECOND)
    made = make(folder)
    assert (made.returncode, made.stdout) == (
        0,
        "2 notebooks, 2 of them executed: open book/index.html\n",
    ), made.stderr
    return folder


@pytest.fixture
def opened(offline: Callable[..., Page], folder: Path) -> Callable[..., Page]:
    """Opens a page of the book."""
    return lambda name, **options: offline(folder / "book" / name, **options)


def test_sliders_are_alive(opened: Callable[..., Page]) -> None:
    page = opened("00_circles.html")
    expect(page.locator("canvas")).to_have_count(4)
    canvas, slider = (
        page.locator("canvas").first,
        page.get_by_role("group", name="Three circles").get_by_role("slider"),
    )
    before = canvas.evaluate(PAINTED)
    slider.press("ArrowRight")
    expect(page.locator("output").first).to_have_text("β = 3")
    assert canvas.evaluate(PAINTED) != before
    slider.press("ArrowLeft")
    assert canvas.evaluate(PAINTED) == before
    expect(page.locator("output").last).to_have_text(
        "β = 2"
    )  # another explorer, which has not moved


def test_pictures_of_a_kernel_move_without_it(opened: Callable[..., Page]) -> None:
    page = opened("00_circles.html")
    group = page.get_by_role("group", name="A line")
    slider, shown = group.get_by_role("slider", name="time t"), group.get_by_role("img")
    expect(shown).to_have_attribute("alt", "A line, time t = 0.5")
    size = group.evaluate(SIZE)
    for key, value in (("ArrowRight", "1"), ("Home", "0.1"), ("End", "1")):
        slider.press(key)
        expect(slider).to_have_attribute("aria-valuetext", f"time t = {value}")
        expect(group.locator("output")).to_have_text(f"time t = {value}")
        expect(shown).to_have_count(1)
        expect(shown).to_have_attribute("alt", f"A line, time t = {value}")
        assert group.evaluate(SIZE) == size  # nothing jumps
    place = slider.bounding_box()
    slider.click(position={"x": place["width"] / 2, "y": place["height"] / 2})
    expect(shown).to_have_attribute("alt", "A line, time t = 0.5")


def test_links_equations_and_search(opened: Callable[..., Page]) -> None:
    page = opened("index.html")
    expect(page.locator("article")).to_contain_text("Meet a walrus.")  # the goal of a notebook
    page.locator("article").get_by_role("link", name="00 · Circles").click()
    expect(page.locator("mjx-container[display=true] svg").first).to_be_visible()
    assert (
        page.locator("mjx-container").count() == 2
        and page.locator("mjx-merror, [data-mjx-error]").count() == 0
    )
    page.get_by_role("link", name="Squares →").click()
    expect(page).to_have_url(re.compile("/book/01_squares.html$"))
    expect(page.locator(".cell_output mjx-container")).to_be_visible()
    page.get_by_role("searchbox").or_(page.get_by_placeholder("Search")).fill("circles")
    page.keyboard.press("Enter")
    page.locator("#search-results").get_by_role("link", name="00 · Circles").click()
    expect(page.locator("canvas")).to_have_count(4)


def test_progress_and_warnings_are_left_out(folder: Path) -> None:
    page = (folder / "book/01_squares.html").read_text()
    assert "a line for the reader" in page
    assert (
        page.count("a bar that") == 2 and page.count("a line for nobody") == 1
    )  # as code, and not as output
    assert "0/3" not in page and "widget" not in page


def test_the_renderer_is_there_once(folder: Path) -> None:
    assert "data:text/javascript" not in (folder / "book/00_circles.html").read_text()
    assert (folder / "book/_static/explorers.js").read_text().count("data:text/javascript") == 1


@pytest.mark.parametrize("width", [390, 1000, 1320, 1376, 1552])
def test_nothing_sticks_out(opened: Callable[..., Page], width: int) -> None:
    for name in ("index.html", "00_circles.html", "01_squares.html", "search.html"):
        page = opened(name, viewport={"width": width, "height": 844})
        page.wait_for_function("!window.MathJax || MathJax.startup.promise.then(() => true)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(STICKING_OUT) == []


def test_explorers_follow_the_scheme_that_a_reader_chooses(opened: Callable[..., Page]) -> None:
    page = opened("00_circles.html", color_scheme="light")
    expect(page.locator(".cepnb[data-dark]")).to_have_count(0)
    page.evaluate("document.body.dataset.theme = 'dark'")  # what the button of the theme does
    expect(page.locator(".cepnb[data-dark]")).to_have_count(2)
    page.evaluate("document.body.dataset.theme = 'auto'")
    expect(page.locator(".cepnb[data-dark]")).to_have_count(0)
    label = page.get_by_role("group", name="A line").locator("output")
    page.emulate_media(color_scheme="dark")
    assert (
        min(
            map(int, re.findall(r"\d+", label.evaluate("node => getComputedStyle(node).color"))[:3])
        )
        > 150
    )


def test_a_second_build_executes_nothing_and_takes_over_new_text(folder: Path) -> None:
    before = contents(folder / "book")
    write(folder / "notebooks", "01_squares", [SECOND[0] + "\n\nAnd more text.", SECOND[1]])
    assert make(folder).stdout == "2 notebooks, 0 of them executed: open book/index.html\n"
    page = folder / "book/01_squares.html"
    assert "And more text." in page.read_text() and "a line for the reader" in page.read_text()
    assert contents(folder / "book").keys() == before.keys()


def test_what_decides_over_a_new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, a file that it names, the profile and the package do; text does not, nor the part of the package that only shows."""

    def kept(text: str = "# Text", code: str = 'open("numbers.txt")') -> Path:
        (job,) = execution.jobs_for(
            [write(tmp_path / "notebooks", "00_one", [text, code])], tmp_path
        )
        return job.kept

    package = tmp_path / "package"
    for name in ("module.py", "book/site.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1")
    monkeypatch.setattr(execution, "PACKAGE", package)
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    found = [kept()]
    assert kept(text="# Other text") == found[0]
    (package / "book/site.py").write_text("x = 2")
    assert kept() == found[0]
    found.append(kept(code="x = 2"))
    (tmp_path / "notebooks/numbers.txt").write_text("1")
    found.append(kept())
    (tmp_path / "notebooks/numbers.txt").write_text("2")
    found.append(kept())
    (package / "module.py").write_text("x = 2")
    found.append(kept())
    monkeypatch.setenv("CEPNB_PROFILE", "laptop")
    found.append(kept())
    assert len(set(found)) == len(found)


WRONG = [
    ("x = 1\nx / 0", "cell 2: ZeroDivisionError: division by zero"),
    (
        "from cepnb.notebook.explorer.widgets import Explorer\nExplorer(lambda t: {}[t], [1.0], 't', 'a line')",
        "cell 2: KeyError: 1.0",
    ),
    (
        "from ipywidgets import interact\n_ = interact(lambda t: 1 / t, t=(0, 1, 1))",
        "hidden error: ZeroDivisionError: division by zero",
    ),
    (
        "from ipywidgets import IntSlider\nIntSlider()",
        "cell 2: shows a widget that needs a kernel; expected an explorer of cepnb.notebook.explorer.widgets",
    ),
]


def test_errors_in_notebooks_are_one_line_and_the_old_book_stays(folder: Path) -> None:
    before = contents(folder / "book")
    wrong = [
        write(folder / "notebooks", f"{number:02}_wrong", ["# Wrong", code])
        for number, (code, _) in enumerate(WRONG, 2)
    ]
    try:
        failed = make(folder)
    finally:
        for path in wrong:
            path.unlink()
    (said,) = [
        line
        for line in re.split(r"[\r\n]+", failed.stderr)
        if line and not line.startswith("notebooks:")
    ]
    expected = "; ".join(f"{path.name}: {reason}" for path, (_, reason) in zip(wrong, WRONG))
    assert (failed.returncode, said) == (2, f"cepnb.tools.book: error: {expected}")
    assert contents(folder / "book") == before


@pytest.mark.filterwarnings("ignore:'myst_parser")
def test_a_page_too_large_and_a_link_to_nowhere_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    before = contents(folder / "book")
    notebooks = sorted((folder / "notebooks").glob("*.ipynb"))
    with pytest.raises(
        CepnbError, match=r"00_circles.html: has 0\.\d MB with its pictures, expected at most 0.1"
    ):
        site.build(notebooks, folder / "book", folder / "work", limit=50_000)
    text = write(folder / "more", "03_text", ["# Text\n\n[lost](04_nowhere.ipynb)"])
    with pytest.raises(CepnbError, match="03_text.*04_nowhere"):
        site.build([text], folder / "book", folder / "work")
    write(folder / "more", "03_text", ["# Text\n\n<img src='https://example.org/picture.png'>"])
    with pytest.raises(
        CepnbError,
        match="03_text.html: loads https://example.org/picture.png, expected nothing of another host",
    ):
        site.build([text], folder / "book", folder / "work")
    with pytest.raises(CepnbError, match="notebooks: is not a book"):
        site.build(notebooks, folder / "notebooks", folder / "work")
    assert contents(folder / "book") == before


def test_the_payload_of_a_notebook_is_what_its_explorers_save(tmp_path: Path) -> None:
    path = write(tmp_path, "circles", FIRST[:2])
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (still,) = [output.data["image/png"] for output in notebook.cells[1].outputs]
    frames = (
        4 * 3 * 2 * 500 * 2 // 3
    )  # base64 of three frames of 500 points, two numbers of two bytes each
    rest = payload(notebook) - len(still) - frames
    assert 1_000 < rest < 6_000  # what is told of sliders and panels, and traits of the widget
