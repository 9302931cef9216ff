"""The API for notebooks and scripts; `import mnist_minimal as mm` has all of it.

It takes what people have at hand (functions of a cell, arrays, recipes) and raises exceptions; of its caller's process
it leaves signals, environment and random numbers as they were.
"""
