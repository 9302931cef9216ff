"""What the commands share: a parser, the options for data and model, and how a command ends.

It may import every library below and is imported by commands alone; it prints, and holds nothing of what they compute.
"""
