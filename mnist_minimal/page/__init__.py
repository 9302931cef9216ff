"""The parts of the report page: what was found, in words, tables and figures, and a trained network as JSON."""
