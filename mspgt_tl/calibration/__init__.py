"""How often the instrument is right: models whose answer is known, measured and judged many times."""
