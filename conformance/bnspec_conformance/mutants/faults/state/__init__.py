"""The wrong implementations of what is kept between calls: the running statistics, renorm, and files."""
