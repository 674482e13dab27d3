"""Build the book: executed notebooks and the pages of docs/ as a static site.

- `execution`: run the notebooks in parallel and cache the results
- `outputs`: find hidden errors and remove outputs that need a kernel
- `site`, `conf`: lay out the sources and run Sphinx
"""
