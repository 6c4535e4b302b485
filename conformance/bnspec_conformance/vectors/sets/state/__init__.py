"""The vectors of what is kept between calls: the running state, and renorm."""
