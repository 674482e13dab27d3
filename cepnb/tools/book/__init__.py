"""Build the book: executed notebooks and the pages of docs/ as a static site.

- `execution`: run the notebooks in parallel and cache the results
- `outputs`: find hidden errors and remove outputs that need a kernel
- `references`: read BibTeX, and format entries as notebooks quote them
- `search`: show a snippet under each search result
- `site`, `conf`: lay out the sources and run Sphinx
"""
