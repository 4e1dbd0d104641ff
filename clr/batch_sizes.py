"""A batch size that fits small data."""

MIN_BATCHES = 8
"""An epoch of fewer steps says little about a learning rate, and one of a single step sees the same rows each time."""


def largest_fitting(num_train_rows: int) -> int:
    """The largest batch size with which so many training rows make ``MIN_BATCHES`` batches an epoch."""
    return max(1, num_train_rows // MIN_BATCHES)
