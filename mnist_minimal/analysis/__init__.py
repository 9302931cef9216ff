"""What trials say: statistics, published figures, summaries of studies, tables and Matplotlib's figures.

It reads what `study` recorded and never changes it; pictures and tables go where the caller says.
"""
