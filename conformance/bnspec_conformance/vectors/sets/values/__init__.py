"""The vectors of what a call computes: y, the statistics, and the derivatives."""
