"""The program that ships: one self-contained `train_gpt.py`, made from this package's own sources.

Three steps, each from text to text: `flatten` (all modules that the program needs as one readable module),
`strip` (the same module without what only a reader needs) and `pack` (compressed, in a file that unpacks itself).
"""
