"""The wrong implementations of each chapter of the specification."""
