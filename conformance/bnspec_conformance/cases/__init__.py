"""Cases: what is asked of a subject."""
