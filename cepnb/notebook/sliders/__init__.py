"""Sliders over figures.

- `widgets`: `BetaExplorer`, `LiveExplorer` and `Explorer`; start here
- `frames`, `layers`: what a slider shows, packed for the page; `static/explorer.js` draws it
- `panels`: panels of densities and energies
"""

IN_PAGE = "CEPNB_IN_PAGE"  # environment variable: explorers render for a page without a kernel
