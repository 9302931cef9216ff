"""All trials of one model on one data set: paths and identity, the CSV, histories, the runner and its policies.

The only room that knows where a study's files lie. One process owns a study and alone writes its CSV.
"""
