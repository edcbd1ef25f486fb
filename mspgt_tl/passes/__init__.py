"""Forward passes: what is run, what is kept of it, what of it is data."""
