"""From a trained model to a model package: ONNX stages and a manifest that says everything about
them.
"""
