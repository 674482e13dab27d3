"""What the notebooks show: sliders, figures, films, and checks of exercises.

- `explorer`: the β slider and all other sliders, with their JavaScript
- `plots`, `score_plots`, `film`: figures in one style
- `exercises`: checks of a reader's answers
"""
