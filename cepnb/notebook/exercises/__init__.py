"""Checks of the notebooks' exercises: each returns one line, "Right." or a hint."""

from cepnb.notebook.exercises.densities import (
    check_contrastive_loss,
    check_effective_samples,
    check_first_order_step,
    check_guided_noise,
    check_info_nce,
    check_intermediate_energy,
    check_mse_energy,
    check_noise,
)
from cepnb.notebook.exercises.policies import (
    check_coverage,
    check_energy_from_samples,
    check_importance_weights,
    check_softmax_target,
    check_tilted_policy,
)
