"""Our models inside of other programs. Nothing here is imported by the rest of the package."""
