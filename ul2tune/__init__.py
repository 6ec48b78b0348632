"""ul2tune: from UL2 pretraining to instruction tuning with one program.

Importing this package imports nothing heavy; every layer is imported by its own name, for example
``from ul2tune.data import ul2``.
"""

__version__ = "0.1.0"
