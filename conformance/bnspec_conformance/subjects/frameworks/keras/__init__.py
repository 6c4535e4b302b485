"""Subjects: the layers of Keras 3 and of Keras 2."""
