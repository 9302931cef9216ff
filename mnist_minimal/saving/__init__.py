"""Trained models in files: written whole, and those of any Keras read, of which nothing is run.

`child` runs in a process of its own, opens a file and hands back JSON and arrays; `reader` asks it. `layouts` tells
the versions apart, `translation` puts their descriptions into the words of Keras 3, `identify` finds a builder that
computes the same, `wiring` makes the network where there is none, and `assignment` gives each weight its array.
`saved_model` has `save` and `load`, `pixels` what the author of a model did to the pixels before it.

It may touch the file it is named, and JSON files beside one of weights only.
"""
