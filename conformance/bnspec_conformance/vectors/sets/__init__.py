"""The vectors of each chapter of the specification."""
