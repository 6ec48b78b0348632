"""Our models inside other programs. Nothing here is imported by the rest of the package."""
