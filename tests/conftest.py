import hypothesis
hypothesis.settings.register_profile("cepnb", deadline=None, derandomize=True)
hypothesis.settings.load_profile("cepnb")
