"""Test the book: two small notebooks and two pages, read in a browser offline."""

import base64
import errno
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
from playwright.sync_api import Locator, Page, expect

from cepnb.errors import CepnbError
from cepnb.tools.book import __main__ as book_command
from cepnb.tools.book import execution, site
from cepnb.tools.book.outputs import with_folded_code
from cepnb.tools.book.search import text_of

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
from cepnb.notebook import plots
from cepnb.notebook.sliders.frames import ANY_BETA, Panel, Slider, beta_slider
from cepnb.notebook.sliders.layers import Points
from cepnb.notebook.sliders.widgets import BetaExplorer, Explorer

angle, beta = torch.linspace(0, 6.28, 500), beta_slider([1.0, 2.0, 3.0], 2.0)
ring = torch.stack([angle.cos(), angle.sin()], dim=1)
circles = Points(torch.stack([b * ring for b in beta.values]), ("beta",), "circle", ANY_BETA)
BetaExplorer([beta], [Panel(f"panel {k}", (circles,)) for k in range(3)], "Three circles")""",
    """
def frame(t):
    figure, axes = plots.figure(3)
    axes[0, 0].plot([0, t])
    return figure

Explorer(frame, Slider(name="t", symbol="time t", values=[0.1, 0.5, 1.0], start=0.5), "A line")""",
    """
BetaExplorer([beta], [Panel("again", (circles,))], "One circle")""",
]
SECOND = [
    """# 01 · Squares

**Goal.** Meet a walrus.

[← Circles](00_circles.ipynb) and [the equations](../docs/equations.md#energy)

Walruses have tusks ([Ito 2020](https://example.org/tusks)).

| density | β | exact | exact_energy | cep_raw | cep_self | cep_independent | cep_beta | mse | exp_mse | dps |
|---|---|---|---|---|---|---|---|---|---|---|
| checkerboard | 20 | 0.98 | 1.03 | 1.11 | 1.11 | 1.11 | 1.08 | 11.68 | 1.36 | 3e+04 |

| task | option | difference | seeds | mean | 95 % interval | each seed |
|---|---|---|---|---|---|---|
| local/halfcheetah-medium-replay | many_episodes | cep − behaviour | 7 | 151.7 | -81.1 to 219.5 | 108.3, -121.7, 30.5 |""",
    """
import sys
from IPython.display import Markdown
from cepnb.progress import progress_bar

list(progress_bar(range(3), desc="a bar that goes", leave=False))
list(progress_bar(range(3), desc="a bar that stays"))
print("a line for nobody", file=sys.stderr)
print("a line for the reader")
Markdown("$\\\\displaystyle x^2$ as an output")""",
]
PAGE = r"""# Equations

| equation | notebook |
|---|---|
| (10) | [circles](../notebooks/00_circles.ipynb) |

[More](more.md), [energy](#energy), [the program](../program.py)

![a dot](../pictures/dot.png)

## Energy

```math
f = \mathcal E_t
```
"""
REFERENCES = """@misc{ito2020,
  author = {Ito, A.},
  title = {Tusks},
  year = {2020},
  url = {https://example.org/tusks},
}
"""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NAMES = (
    "index.html",
    "notebooks/00_circles.html",
    "notebooks/01_squares.html",
    "docs/equations.html",
    "docs/references.html",
    "search.html",
)
PAINTED = "canvas => canvas.toDataURL()"
SIZE = "node => [node.offsetWidth, node.offsetHeight]"
OVERFLOWING = """() => [...document.querySelectorAll("article *")].filter(node => {
    for (let above = node; above !== document.body; above = above.parentElement) {
        if (getComputedStyle(above).overflowX !== "visible") return false;
    }
    const box = node.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > document.documentElement.clientWidth);
}).map(node => node.outerHTML.slice(0, 80))"""


def write(folder: Path, name: str, cells: list[str], front: int | None = None) -> Path:
    """Write a notebook; cells that begin with a heading are text, all others are code.

    `front` is the number of the cell for the front page.
    """
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    new_cells = [
        new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell.strip())
        for cell in cells
    ]
    if front is not None:
        new_cells[front].metadata["tags"] = [site.FRONT]
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(metadata=kernel, cells=new_cells), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def make(folder: Path) -> subprocess.CompletedProcess:
    """Run what `make book` runs in another folder."""
    command = [sys.executable, "-m", "cepnb.tools.book", "--work", "work"]
    package = str(Path(__file__).parent.parent)
    environment = {**os.environ, "CEPNB_PROFILE": "ci", "PYTHONPATH": package}
    return subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", env=environment
    )


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two notebooks and two pages, and its book."""
    folder = tmp_path_factory.mktemp("book")
    write(folder / "notebooks", "00_circles", FIRST, front=1)
    write(folder / "notebooks", "01_squares", SECOND)
    for name in ("docs", "pictures"):
        (folder / name).mkdir()
    (folder / "docs/equations.md").write_text(PAGE, encoding="utf-8")
    (folder / "docs/more.md").write_text(
        "# More\n\n[Squares](../notebooks/01_squares.ipynb)\n", encoding="utf-8"
    )
    (folder / "docs/references.bib").write_text(REFERENCES, encoding="utf-8")
    (folder / "pictures/dot.png").write_bytes(base64.b64decode(DOT))
    (folder / "program.py").write_text("", encoding="utf-8")
    built = make(folder)
    expected = "2 notebooks, 2 of them executed: open book/index.html\n"
    assert (built.returncode, built.stdout) == (0, expected), built.stderr
    return folder


@pytest.fixture
def opened(offline: Callable[..., Page], folder: Path) -> Callable[..., Page]:
    """Return a function that opens a page of the book."""
    return lambda name, **options: offline(folder / "book" / name, **options)


def test_sliders_work(opened: Callable[..., Page]) -> None:
    page = opened("notebooks/00_circles.html")
    expect(page.locator("canvas")).to_have_count(4)
    canvas = page.locator("canvas").first
    slider = page.get_by_role("group", name="Three circles").get_by_role("slider")
    before = canvas.evaluate(PAINTED)
    slider.press("ArrowRight")
    expect(page.locator("output").first).to_have_text("β = 3")
    assert canvas.evaluate(PAINTED) != before
    slider.press("ArrowLeft")
    assert canvas.evaluate(PAINTED) == before
    expect(page.locator("output").last).to_have_text("β = 2")  # the other explorer did not move


def test_the_front_page_has_a_picture_a_slider_and_links_to_known_pages(
    opened: Callable[..., Page],
) -> None:
    page = opened("index.html")
    article = page.locator("article")
    assert article.get_by_role("img", name="Samples of six densities").evaluate(
        "image => image.naturalWidth > 500"
    )
    expect(page.locator("canvas")).to_have_count(3)
    canvas, slider = page.locator("canvas").first, article.get_by_role("slider")
    before = canvas.evaluate(PAINTED)
    slider.press("ArrowRight")
    expect(page.locator("output")).to_have_text("β = 3")
    assert canvas.evaluate(PAINTED) != before
    expect(article).to_contain_text("Begin with 03 Tilting by an energy.")
    expect(article.get_by_role("link", name="03 Tilting by an energy")).to_have_count(0)
    expect(article.get_by_role("listitem").filter(has_text="More")).to_have_text("More")
    expect(article).not_to_contain_text("$")  # every field of the template is filled in


def test_stored_figures_follow_the_slider(opened: Callable[..., Page]) -> None:
    page = opened("notebooks/00_circles.html")
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
        assert group.evaluate(SIZE) == size
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    expect(shown).to_have_attribute("alt", "A line, time t = 0.5")


def test_links_equations_and_search(opened: Callable[..., Page]) -> None:
    page = opened("index.html")
    expect(page.locator("article")).to_contain_text("Meet a walrus.")  # the goal of a notebook
    page.locator("article").get_by_role("link", name="00 · Circles").click()
    expect(page.locator("mjx-container[display=true] svg").first).to_be_visible()
    assert page.locator("mjx-container").count() == 2
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    page.get_by_role("link", name="Squares →").click()
    expect(page).to_have_url(re.compile("/book/notebooks/01_squares.html$"))
    expect(page.locator(".cell_output mjx-container")).to_be_visible()
    search(page, "circles").get_by_role("link", name="00 · Circles").first.click()
    expect(page.locator("canvas")).to_have_count(4)


def search(page: Page, words: str) -> Locator:
    """Search by the box of the page and return the results."""
    page.get_by_role("searchbox").or_(page.get_by_placeholder("Search")).fill(words)
    page.keyboard.press("Enter")
    return page.locator("#search-results li")


def test_search_results_have_snippets(opened: Callable[..., Page]) -> None:
    page = opened("index.html")
    results = search(page, "tusks")
    expect(results).to_have_count(2)  # the notebook, and the page of references
    snippet = results.filter(has_text="01 · Squares").locator("p")
    expect(snippet).to_contain_text("Walruses have tusks (Ito 2020).")
    expect(snippet.locator(".highlighted")).to_have_text("tusks")
    expect(search(page, "wide").locator("p")).to_contain_text("See … move.")


def test_a_snippet_has_the_text_of_its_section_and_code_last() -> None:
    body = """<section id="a"><h1>A<a class="headerlink">¶</a></h1><pre>x = <b>1</b></pre>
    <p>See <span class="math">x^2</span> &lt;here&gt;.</p><script>let y</script><noscript>no</noscript>
    <details><summary>Show code</summary>z</details><section class="c" id="b">B<svg>s</svg></section>
    </section>"""
    text = " ".join(text_of(body).split())
    assert text == (
        '<div role="main"><section id="a">A See … &lt;here&gt;. z<section id="b">B</section>'
        " </section>x = 1</div>"
    )


def test_pages_are_a_second_part_and_link_to_notebooks(opened: Callable[..., Page]) -> None:
    page = opened("index.html")
    expect(page.locator("article h2")).to_contain_text(["Notebooks", "Documentation"])
    page.locator("article").get_by_role("link", name="Equations").click()
    expect(page).to_have_url(re.compile("/book/docs/equations.html$"))
    article = page.locator("article")
    expect(article.locator("mjx-container svg").first).to_be_visible()
    assert article.get_by_alt_text("a dot").evaluate("image => image.naturalWidth") == 1
    expect(article).to_contain_text("the program")
    expect(article.get_by_role("link", name="the program")).to_have_count(0)
    article.get_by_role("link", name="circles").click()
    expect(page).to_have_url(re.compile("/book/notebooks/00_circles.html$"))
    page.go_back()
    article.get_by_role("link", name="More").click()
    article.get_by_role("link", name="Squares").click()
    article.get_by_role("link", name="the equations").click()
    expect(page).to_have_url(re.compile("/book/docs/equations.html#energy$"))


def test_the_page_of_references_links_to_notebooks_and_to_the_file(
    opened: Callable[..., Page], folder: Path
) -> None:
    page = opened("index.html")
    article = page.locator("article")
    article.get_by_role("link", name="References").click()
    expect(article.locator("li")).to_have_text(
        ["Ito: Tusks, 2020, example.org/tusks. Cited in 01."]
    )
    address = article.get_by_role("link", name="BibTeX").get_attribute("href")
    assert (folder / "book/docs" / address).read_text(encoding="utf-8") == REFERENCES
    article.get_by_role("link", name="01").click()
    expect(page.locator("article")).to_contain_text("Walruses have tusks")


def test_progress_bars_and_standard_error_are_removed(folder: Path) -> None:
    page = (folder / "book/notebooks/01_squares.html").read_text(encoding="utf-8")
    assert "a line for the reader" in page
    # The code itself is shown.
    assert page.count("a bar that") == 2 and page.count("a line for nobody") == 1
    assert "0/3" not in page and "widget" not in page


def test_all_pages_share_the_renderer(folder: Path) -> None:
    assert "data:text/javascript" not in (folder / "book/notebooks/00_circles.html").read_text(
        encoding="utf-8"
    )
    assert (folder / "book/_static/explorers.js").read_text(encoding="utf-8").count(
        "data:text/javascript"
    ) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overflows(opened: Callable[..., Page], name: str) -> None:
    page = opened(name)
    page.wait_for_function("!window.MathJax || MathJax.startup.promise.then(() => true)")
    for width in (390, 1000, 1320, 1376, 1552):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(OVERFLOWING) == []


@pytest.mark.parametrize("width", [390, 1280, 1320, 1440])
def test_tables_with_many_columns_fit_without_scrolling(
    opened: Callable[..., Page], width: int
) -> None:
    page = opened("notebooks/01_squares.html", viewport={"width": width, "height": 844})
    widths = page.locator(".table-wrapper").evaluate_all(
        "nodes => nodes.map(node => [node.scrollWidth, node.clientWidth])"
    )
    assert len(widths) == 2 and all(inner <= outer for inner, outer in widths), widths
    assert page.locator("td", has_text="3e+04").bounding_box()["height"] < 60  # numbers stay whole


def test_code_is_folded_until_a_reader_opens_one_cell_or_all(opened: Callable[..., Page]) -> None:
    page = opened("notebooks/00_circles.html")
    codes = page.locator(".cell_input")
    expect(codes).to_have_count(3)
    assert [code.is_visible() for code in codes.all()] == [False] * 3
    page.get_by_text("Show code", exact=True).first.click()
    assert [code.is_visible() for code in codes.all()] == [True, False, False]
    page.get_by_role("button", name="Show all code").click()
    assert all(code.is_visible() for code in codes.all())
    page.get_by_role("link", name="Squares →").click()
    expect(page.get_by_role("button", name="Hide all code")).to_be_visible()
    expect(page.locator(".cell_input")).to_be_visible()
    page.get_by_role("button", name="Hide all code").click()
    expect(page.locator(".cell_input")).to_be_hidden()
    page.go_back()
    expect(page.locator(".cell_input").first).to_be_hidden()


def test_exercises_and_tagged_cells_stay_open() -> None:
    sources = "x = 1", "def mine(): ...\n\nexercises.check_noise(mine)", "y = 2"
    shown = new_code_cell(sources[2], metadata={"tags": ["front-page", "show-input"]})
    cells = [*map(new_code_cell, sources[:2]), shown, new_markdown_cell("# text")]
    folded = with_folded_code(new_notebook(cells=cells)).cells
    tags = [cell.metadata.get("tags", []) for cell in folded]
    assert tags == [["hide-input"], [], ["front-page", "show-input"], []]


def test_explorers_follow_the_chosen_colour_scheme(opened: Callable[..., Page]) -> None:
    page = opened("notebooks/00_circles.html", color_scheme="light")
    expect(page.locator(".cepnb[data-dark]")).to_have_count(0)
    page.evaluate("document.body.dataset.theme = 'dark'")  # as the button of the theme does
    expect(page.locator(".cepnb[data-dark]")).to_have_count(3)
    page.evaluate("document.body.dataset.theme = 'auto'")
    expect(page.locator(".cepnb[data-dark]")).to_have_count(0)
    label = page.get_by_role("group", name="A line").locator("output")
    page.emulate_media(color_scheme="dark")
    colour = label.evaluate("node => getComputedStyle(node).color")
    assert min(map(int, re.findall(r"\d+", colour)[:3])) > 150


def test_a_second_build_executes_nothing_and_updates_text(folder: Path) -> None:
    before = contents(folder / "book")
    write(folder / "notebooks", "01_squares", [SECOND[0] + "\n\nAnd more text.", SECOND[1]])
    assert make(folder).stdout == "2 notebooks, 0 of them executed: open book/index.html\n"
    page = folder / "book/notebooks/01_squares.html"
    assert "And more text." in page.read_text(
        encoding="utf-8"
    ) and "a line for the reader" in page.read_text(encoding="utf-8")
    assert contents(folder / "book").keys() == before.keys()


def test_what_requires_a_new_execution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, a file or folder it names, the profile and the package do; text and display code do not."""

    def result(text: str = "# Text", code: str = 'open("numbers.txt")') -> Path:
        path = write(tmp_path / "notebooks", "00_one", [text, code])
        return execution.result_paths([path], tmp_path)[path]

    package = tmp_path / "package"
    for name in ("module.py", "tools/book/site.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x = 1", encoding="utf-8")
    monkeypatch.setattr(execution, "PACKAGE", package)
    monkeypatch.setattr(execution, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    results = [result()]
    assert result(text="# Other text") == results[0]
    (package / "tools/book/site.py").write_text("x = 2", encoding="utf-8")
    assert result() == results[0]
    results.append(result(code="x = 2"))
    (tmp_path / "notebooks/numbers.txt").write_text("1", encoding="utf-8")
    results.append(result())
    (tmp_path / "notebooks/numbers.txt").write_text("2", encoding="utf-8")
    results.append(result())
    (tmp_path / "results").mkdir()
    (tmp_path / "results/numbers.txt").write_text("2", encoding="utf-8")
    results.append(result())
    results.append(result(code='show("runs")'))
    (tmp_path / "results/runs/seed0").mkdir(parents=True)
    (tmp_path / "results/runs/seed0/metrics.json").write_text("{}", encoding="utf-8")
    results.append(result(code='show("runs")'))
    assert not execution.named_files('join(".", "..", "/", "/etc")', tmp_path / "results")
    (package / "module.py").write_text("x = 2", encoding="utf-8")
    results.append(result())
    monkeypatch.setenv("CEPNB_PROFILE", "laptop")
    results.append(result())
    assert len(set(results)) == len(results)


WRONG = [
    ("x = 1\nx / 0", "cell 2: ZeroDivisionError: division by zero"),
    (
        "from cepnb.notebook.sliders import frames, widgets\n"
        "widgets.Explorer(lambda t: {}[t], frames.time_slider([1.0], 1.0), 'a line')",
        "cell 2: KeyError: 1.0",
    ),
    (
        "from ipywidgets import interact\n_ = interact(lambda t: 1 / t, t=(0, 1, 1))",
        "hidden error: ZeroDivisionError: division by zero",
    ),
    (
        "from ipywidgets import IntSlider\nIntSlider()",
        "cell 2: this widget needs a kernel; use an explorer of cepnb.notebook.sliders.widgets",
    ),
]


def test_errors_in_notebooks_give_one_line_and_the_old_book_stays(folder: Path) -> None:
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
    lines = [line for line in re.split(r"[\r\n]+", failed.stderr) if line]
    messages = [line for line in lines if not line.startswith("notebooks:")]
    expected = "; ".join(f"{path.name}: {reason}" for path, (_, reason) in zip(wrong, WRONG))
    assert (failed.returncode, messages) == (2, [f"cepnb.tools.book: error: {expected}"])
    assert contents(folder / "book") == before


@pytest.mark.filterwarnings("ignore:'myst_parser")
def test_a_page_with_an_error_is_rejected_and_the_old_book_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    before = contents(folder / "book")
    notebooks = sorted((folder / "notebooks").glob("*.ipynb"))

    def build_text(text: str, pages: Path | None = None) -> None:
        notebook = write(folder / "more", "03_text", [f"# Text\n\n{text}"])
        site.build([notebook], folder / "book", folder / "work", pages)

    message = r"index.html has 0\.\d MB with its pictures; use at most 0.1 MB"
    with pytest.raises(CepnbError, match=message), monkeypatch.context() as small:
        small.setattr(site, "LIMIT", 50_000)
        site.build(notebooks, folder / "book", folder / "work", folder / "docs")
    with pytest.raises(CepnbError, match="03_text.*04_nowhere"):
        build_text("[lost](04_nowhere.ipynb)")
    message = "03_text.html loads https://example.org/picture.png; load nothing from another host"
    with pytest.raises(CepnbError, match=message):
        build_text("<img src='https://example.org/picture.png'>")
    (folder / "bad").mkdir()
    (folder / "bad/lost.md").write_text("# Lost\n\n[page](nowhere.md)\n", encoding="utf-8")
    with pytest.raises(CepnbError, match="lost.*nowhere"):
        build_text("", pages=folder / "bad")
    with pytest.raises(CepnbError, match="pictures: no page found; name a folder with .md files"):
        build_text("", pages=folder / "pictures")
    with pytest.raises(CepnbError, match="notebooks: this folder is not a book"):
        site.build(notebooks, folder / "notebooks", folder / "work")
    assert contents(folder / "book") == before


def test_folders_and_pages_are_checked_before_notebooks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(site, "execute", lambda *arguments: pytest.fail("notebooks ran"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    for book, work in (("file/book", "work"), ("book", "file/work")):
        with pytest.raises(
            CepnbError, match=f"{tmp_path}/{book}: cannot be moved from .*; use fol"
        ):
            site.build([], tmp_path / book, tmp_path / work)
    with pytest.raises(CepnbError, match="nowhere: no page found; name a folder with .md files"):
        site.build([], tmp_path / "book", tmp_path / "work", tmp_path / "nowhere")
    monkeypatch.setattr(Path, "rename", moved)
    with pytest.raises(
        CepnbError, match="Invalid cross-device link.*; use folders of one writable"
    ):
        site.build([], tmp_path / "book", tmp_path / "work")


def test_the_payload_of_a_notebook_is_the_saved_state_of_its_explorers(tmp_path: Path) -> None:
    path = write(tmp_path, "circles", FIRST[:2])
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    ((html, still),) = [
        (output.data["text/html"], output.data["image/png"]) for output in notebook.cells[1].outputs
    ]
    # Three frames of 500 points with two numbers of two bytes, in base64.
    frames = 4 * 3 * 2 * 500 * 2 // 3
    rest = payload(notebook) - len(html) - len(still) - frames
    assert 1_000 < rest < 6_000  # descriptions of sliders and panels, and other widget traits


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("n/a.ipynb", "{", "a.ipynb: not a complete notebook file"),
        ("n/a.ipynb", "[]", "a.ipynb: not a complete notebook file"),
        ("n/a.ipynb", '{"nbformat": 4, "nbformat_minor": 5}', "a.ipynb: not a complete notebook"),
        (
            "n/a.ipynb",
            '{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{"cell_type": "code"}]}',
            "a.ipynb: not a complete notebook file",
        ),
        (
            "n/a.ipynb",
            '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}',
            "a.ipynb begins with ''; begin with a title, '# …'",
        ),
        ("n/a.ipynb", b"\xff", "a.ipynb: not a complete notebook file"),
        ("pages/a.md", "# Müller".encode("latin-1"), "a.md: not a complete UTF-8 file"),
        ("pages/a.md", "No title", "a.md begins with 'No title'; begin with a title"),
    ],
)
def test_damaged_notebooks_and_pages_are_named_before_notebooks_run(
    name: str, content: str | bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "execute", lambda *arguments: pytest.fail("notebooks ran"))
    first = write(tmp_path / "n", "a", ["# Title"])
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/a.md").write_bytes(b"\xef\xbb\xbf# Title")  # with a byte-order mark
    before = contents(tmp_path)
    bytes_of = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(bytes_of)
    with pytest.raises(CepnbError, match=re.escape(message)) as raised:
        site.build([first], tmp_path / "book", tmp_path / "work", tmp_path / "pages")
    assert "\n" not in str(raised.value)
    for path, data in before.items():
        path.write_bytes(data)
    with pytest.raises(pytest.fail.Exception, match="notebooks ran"):
        site.build([first], tmp_path / "book", tmp_path / "work", tmp_path / "pages")


def test_notebooks_that_begin_with_code_and_missing_libraries_are_named_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(site, "execute", lambda *arguments: pytest.fail("notebooks ran"))
    code = write(tmp_path / "n", "a", ["x = 1"])
    with pytest.raises(CepnbError, match="a.ipynb begins with ''; begin with a title"):
        site.build([code], tmp_path / "book", tmp_path / "work")
    for name in ("furo", "myst_nb", "sphinx.ext.mathjax"):
        with monkeypatch.context() as missing:
            missing.setitem(sys.modules, name, None)
            with pytest.raises(CepnbError, match=f"^{name}: cannot be imported .*pip install"):
                site.build([code], tmp_path / "book", tmp_path / "work")
    monkeypatch.setitem(sys.modules, "cepnb.tools.book.site", None)
    monkeypatch.setattr(sys, "argv", ["book", "--notebooks", str(tmp_path / "n")])
    assert book_command.main() == 2
    assert capsys.readouterr().err.endswith("; run pip install 'cepnb[book]'\n")
