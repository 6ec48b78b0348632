"""Pure Python and NumPy: spans, denoisers, records, templates, mixing, vocabularies. No JAX, no TF."""
