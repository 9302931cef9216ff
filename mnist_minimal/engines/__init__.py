"""What turns seeds into outcomes: `run(seeds, policies)` takes the next seed when a place is free.

An engine is given the function that trains one seed; it knows neither files nor models.
"""
