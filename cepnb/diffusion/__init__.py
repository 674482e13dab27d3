"""Diffusion models, energy guidance and the contrastive loss: Sections 2 and 3 of arXiv:2304.12824.

Read in this order:

- `schedule`: the forward process (Eq. 8)
- `features`, `networks`: inputs and networks ε_θ, f_φ, Q_ψ
- `losses`: noise prediction, CEP (Eqs. 12, 13, 19, 20), MSE, the softmax target (Eq. 22)
- `guidance`: the guided score (Eq. 11) and DPS
- `samplers`: DPM-Solver++ and ancestral sampling
- `plan`, `training`: one loop for every loss
- `devices`: CPU or GPU, and CUDA graphs of training steps
"""
