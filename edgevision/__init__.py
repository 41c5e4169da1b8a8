"""EdgeVision: the fastest vision model that still passes your accuracy budget, proven."""

__version__ = "0.1.0"
