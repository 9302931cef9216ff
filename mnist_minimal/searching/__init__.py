"""The search for small networks and their recipes: Optuna proposes candidates, trials of this project's judge them.

No candidate sees the test set before the search is over; `finals` touches it once.
"""
