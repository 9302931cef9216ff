"""Trained models in files: written whole, and read as names, JSON and arrays, of which nothing is run.

It may touch the file it is named and builds models through `models` alone.
"""
