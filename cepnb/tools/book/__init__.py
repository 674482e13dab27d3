"""Build the book: the executed notebooks and the pages of docs/ as a site without kernel, server or network.

- `execution`: run the notebooks in parallel and cache the results
- `outputs`: find hidden errors and remove outputs that need a kernel
- `site`, `conf`: lay out the sources and run Sphinx
"""
