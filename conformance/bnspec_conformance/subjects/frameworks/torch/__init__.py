"""Subjects: the layers of torch, and what subjects on torch share."""
