"""Subjects: ONNX's operator, by its reference evaluator and by onnxruntime."""
