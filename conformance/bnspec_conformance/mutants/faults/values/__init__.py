"""The wrong implementations of what a call computes: y, the statistics, and the derivatives."""
