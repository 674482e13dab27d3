"""All that the notebooks use, from one place: `from cepnb.notebook import VPSchedule, guided, plots`.

Each name is imported from its own module when it is first used. What the notebooks show is here:

- `sliders`: the β slider (`sliders/widgets.py`) and all others, with their JavaScript
- `plots`, `score_plots`, `film`: figures in one style
- `exercises`, `own_code`: checks of a reader's answers
"""

from cepnb import lazy_names

_NAMES = {  # module or package: its names
    "cepnb.datasets": "waypoint",
    "cepnb.datasets.agents": "shipped_agents",
    "cepnb.datasets.d4rl": "dataset_urls",
    "cepnb.datasets.registry": "load_dataset",
    "cepnb.densities": "benchmark metrics",
    "cepnb.densities.benchmark": "BETAS",
    "cepnb.densities.methods": "guided_samples particle_samples toy_energy_net train_conditioned train_score train_toy_energy",
    "cepnb.densities.metrics": "effective_samples gradient_error w2",
    "cepnb.densities.mixtures": "GaussianMixture",
    "cepnb.densities.names": "METHODS",
    "cepnb.densities.own": "fit_guidance own_density",
    "cepnb.densities.settings": "toy_settings",
    "cepnb.densities.toys": "DENSITIES density eight_gaussians swiss_roll",
    "cepnb.diffusion": "guidance losses posterior",
    "cepnb.diffusion.guidance": "dps_energy energy_gradient guided predict_x0",
    "cepnb.diffusion.losses": "cep cep_self_normalised noise_prediction",
    "cepnb.diffusion.networks": "EnergyNet EpsNet parameter_count",
    "cepnb.diffusion.particles": "twisted_diffusion",
    "cepnb.diffusion.samplers": "ancestral dpm_solver_pp last",
    "cepnb.diffusion.schedule": "VPSchedule",
    "cepnb.diffusion.training": "Plan draw initialised seeded train training",
    "cepnb.envs.antmaze": "AntMazeEnv",
    "cepnb.envs.d4rl_package": "mujoco_21_present reference_scores",
    "cepnb.envs.locomotion": "LocomotionEnv",
    "cepnb.envs.maze": "LAYOUTS MazeEnv layout",
    "cepnb.envs.registry": "family_of",
    "cepnb.errors": "CepnbError",
    "cepnb.experiments.report": "difference_table markdown_table",
    "cepnb.experiments.scores": "load_scores summed_up",
    "cepnb.notebook.film": "show_films",
    "cepnb.notebook.score_plots": "results_folder",
    "cepnb.notebook.sliders.frames": "ALL_BETA ANY_BETA Panel Slider beta_slider over_grid scale_slider time_slider trained_at",
    "cepnb.notebook.sliders.layers": "Points shaded",
    "cepnb.notebook.sliders.panels": "comparison_times energy_frames energy_layers method_panels",
    "cepnb.notebook.sliders.widgets": "BetaExplorer Explorer LiveExplorer",
    "cepnb.qgpo": "behaviour critic energy",
    "cepnb.qgpo.critic": "policy_value support_values",
    "cepnb.qgpo.diagnostics": "critic_errors observed_returns",
    "cepnb.qgpo.evaluation": "rollout",
    "cepnb.qgpo.pipeline": "Steps configuration_of run_qgpo",
    "cepnb.qgpo.policy": "behaviour_policy guided_policy sample_actions",
    "cepnb.qgpo.pretrained": "load_networks",
    "cepnb.qgpo.record": "cached_run",
    "cepnb.qgpo.settings": "meanings profile_name qgpo_settings",
    "cepnb.qgpo.tabular": "DIRECTIONS TabularMDP action_density maze_mdp nearest_direction",
    "cepnb.qgpo.transitions": "prepare",
    "cepnb.storage.files": "cache_dir read_json",
}
_SOURCES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_SOURCES)
__getattr__ = lazy_names(__name__, _SOURCES)  # so that a notebook loads only what it needs
