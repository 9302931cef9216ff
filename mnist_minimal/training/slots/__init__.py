"""Many trials of one network at once, on one device, by JAX.

What differs between the trials lies in arrays whose first axis is the place, as slots are called in which a trial is
trained: weights, seeds, epochs, learning rates, and the numbers of their recipes.
"""
