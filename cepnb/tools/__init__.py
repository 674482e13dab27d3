"""Tools around the package.

- `bench`: speed on this machine, against its limits and against the paper's public code
- `book`: all notebooks as a site
"""
