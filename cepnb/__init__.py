"""cepnb: exact energy-guided diffusion sampling by contrastive energy prediction (arXiv:2304.12824)."""

__version__ = "0.1.0"
