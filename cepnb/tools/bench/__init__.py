"""How fast the package is, on this machine: against what the machine could do, and against the paper's public code."""
