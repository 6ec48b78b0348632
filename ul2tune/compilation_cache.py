"""Where JAX keeps compiled programs, so that the next process need not compile them again."""

from __future__ import annotations

import jax
from jax.experimental.compilation_cache import compilation_cache


def use(folder: str | None) -> None:
    """Keeps compiled programs in `folder` from now on.

    None leaves what JAX or JAX_COMPILATION_CACHE_DIR say; the command line sets that to a folder of
    the user's cache.
    """
    if folder is None:
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX would stay with the folder of its first compilation
