"""Models: where they come from, and how the embedded ones were trained."""
