"""Settings of Sphinx. Nothing may come from another host, nor be fetched by a script, which a page opened from a file may not."""

project = html_title = "cepnb"
language = "en"
extensions = ["myst_nb", "sphinx.ext.mathjax"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_update_mathjax = False
mathjax_path = "tex-svg-full.js"  # in one file: fonts of its own it would have to fetch
mathjax3_config = {"options": {"enableMenu": False}}  # its entries load files that are not there

nb_execution_mode = "off"  # executed already
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # from another host, and for widgets that the book has none of

html_theme = "furo"
pygments_dark_style = "monokai"
html_css_files = ["explorer.css", "book.css"]
html_js_files = ["book.js", ("explorers.js", {"defer": "defer"})]
html_show_search_summary = False  # fetched page by page
html_copy_source = html_show_copyright = html_use_index = False
