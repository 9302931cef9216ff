"""The report page: one HTML file of what the studies in a folder found, with a digit to draw.

It reads through `analysis` and `study`, runs saved models for the digits it shows, and writes that one file.
"""
