"""The wrong implementations of the layer, and of what is refused."""
