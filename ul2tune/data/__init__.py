"""Pure Python and NumPy: spans, denoisers, records, mixing, vocabularies. No JAX, no TF."""
