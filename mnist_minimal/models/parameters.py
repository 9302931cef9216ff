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

# The moving means and variances of BatchNormalization, which files have besides.
MOVING_STATISTICS = {
    "conv18242": 304,
    "gap13914": 208,
    "antman9954": 112,
    "small8624": 128,
    "small7384": 112,
    "small7344": 128,
    "pyramid3762": 120,
    "shared1936": 0,
    "sep997": 0,
    "sep697": 0,
}
