"""Show a snippet under each search result: a Sphinx extension for books that are read from the disk.

Sphinx's search page fetches each page that it found, which browsers refuse without a server. So a
script of this page answers `fetch` with the text of the page.
"""

import json

from bs4 import BeautifulSoup
from sphinx.application import Sphinx

from cepnb.storage.files import write_text

SCRIPT = "snippets.js"
LEFT_OUT = "script, style, noscript, summary, img, svg, .headerlink"


def setup(app: Sphinx) -> dict[str, bool]:
    """Collect the texts of all pages, and write the script at the end."""
    texts = {}

    def collect(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
        if page == "search":
            app.add_js_file(SCRIPT)
        elif doctree is not None:
            texts[f"./{page}.html"] = text_of(context["body"])

    def write(app: Sphinx, error: Exception | None) -> None:
        answer = "window.fetch = async (page) => new Response(texts[page]);"
        script = f"const texts = {json.dumps(texts)};\n{answer}\n"
        write_text(app.outdir / "_static" / SCRIPT, script)

    app.connect("html-page-context", collect)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}


def text_of(body: str) -> str:
    """Return the text of a page in its sections; code comes last, and … replaces an equation."""
    page = BeautifulSoup(body, "html.parser")
    for left_out in page.select(LEFT_OUT):
        left_out.decompose()
    for equation in page.select(".math"):
        equation.replace_with("…")
    for code in page.select("pre"):  # so that a snippet is prose if a word is in both
        page.append(code.extract())
    for tag in page.find_all(True):
        if tag.name == "section":
            tag.attrs = {"id": tag.get("id", "")}
        else:
            tag.unwrap()
    return f'<div role="main">{page}</div>'
