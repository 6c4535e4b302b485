"""Checks of running statistics and of what a state is saved as."""
