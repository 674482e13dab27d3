"""What the notebooks show: sliders, figures, films, and checks of exercises.

- `sliders`: the β slider (`sliders/widgets.py`) and all others, with their JavaScript
- `plots`, `score_plots`, `film`: figures in one style
- `exercises`: checks of a reader's answers
"""
