"""Q-guided policy optimisation (QGPO): from offline data to samples of the KL-regularised optimal policy."""
