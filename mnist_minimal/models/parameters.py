"""How many parameters the published networks have, to be known without building one. Standard library only."""

# Those that are trained, as the sources count them.
PARAMETERS = {
    "conv18242": 18242,
    "gap13914": 13914,
    "antman9954": 9954,
    "small8624": 8624,
    "small7384": 7384,
    "small7344": 7344,
    "pyramid3762": 3762,
    "shared1936": 1936,
    "sep997": 997,
    "sep697": 697,
}

# With the moving means and variances of BatchNormalization, which files have besides.
ELEMENTS = {
    "conv18242": 18546,
    "gap13914": 14122,
    "antman9954": 10066,
    "small8624": 8752,
    "small7384": 7496,
    "small7344": 7472,
    "pyramid3762": 3882,
    "shared1936": 1936,
    "sep997": 997,
    "sep697": 697,
}
