"""Many trials of one network at once in JAX: the same layers as the core's, each activation with an axis of trials.

Everything here has the place of a trial as its first axis, of size K. Nothing here imports JAX before it is needed, and
the program needs no Keras: `program.Program` takes a network as plain data, a recipe and the images.
"""
