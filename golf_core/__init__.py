"""The science of a Parameter Golf run: model, training, artifact and evaluation, on torch alone."""

__version__ = "0.1.0"
