"""The images: found, checked and split; their order in an epoch, and their augmentation.

The only room that finds and reads data sets; apart from Keras' own cache and download it touches what it is named.
"""
