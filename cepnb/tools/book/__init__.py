"""The book: all notebooks, executed, as a site that needs no kernel, no server and no network."""
