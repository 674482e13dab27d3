"""Configure Sphinx for pages that work from the disk: no other host, no fetches."""

project = html_title = "cepnb"
language = "en"
extensions = ["myst_nb", "sphinx.ext.mathjax", "cepnb.tools.book.search"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_fence_as_directive = ["math"]  # as GitHub shows it
myst_heading_anchors = 3  # links such as equations.md#guidance
myst_update_mathjax = False
mathjax_path = "tex-svg-full.js"  # a single file, because fonts would be fetched
mathjax3_config = {"options": {"enableMenu": False}}  # the menu fetches files

nb_execution_mode = "off"  # the notebooks are executed already
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show code", "Hide code"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # comes from another host, and the book has no such widgets

html_theme = "furo"
pygments_dark_style = "monokai"
html_css_files = ["explorer.css", "book.css"]
html_js_files = ["book.js", ("explorers.js", {"defer": "defer"})]
html_copy_source = html_show_copyright = html_use_index = False
