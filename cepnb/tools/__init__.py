"""Tools for users and maintainers of the package.

- `bench`: speed on this machine, compared with its limits and with the paper's public code
- `terminal`: tables and wrapped lines for the command line
- `book`: the notebooks and documentation as a static site
- `outputs`: outputs of the notebooks, stored in their files
"""
