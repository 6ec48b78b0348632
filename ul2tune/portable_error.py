"""Exceptions that go from a worker process to the one it works for."""

from __future__ import annotations

import pickle


def portable(error: Exception) -> Exception:
    """An error itself if it survives pickling; else a RuntimeError that says the same.

    Many do not: unpickling calls the class with `args`, which is the message alone where a class of
    several arguments made one of them.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        found = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            found.add_note(note)
        return found
    return error
