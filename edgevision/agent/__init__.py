"""What runs on a board: one process that builds, measures and infers for whoever is connected.

It reads requests from standard input and answers on standard output, one JSON object a line, and
ends with its input. It keeps to Python 3.8, the standard library, and numpy where a task needs it.
"""
