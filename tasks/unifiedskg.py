"""UnifiedSKG's tasks over your own copies of their files (docs/unifiedskg.md has the layout).

    UL2TUNE_UNIFIEDSKG=/data/unifiedskg ul2tune prepare --gin.TASK_MODULES='("tasks.unifiedskg",)' …

registers `unifiedskg_wikitq`, `_tab_fact`, `_dart`, `_spider`, `_multiwoz`, as far as their files
are there, and the mixtures

    unifiedskg        training, n^(1/2)
    unifiedskg_eval   their validation splits

UL2TUNE_UNIFIEDSKG_CONFIG names a configuration file of UnifiedSKG instead of the default run;
UL2TUNE_UNIFIEDSKG_CARVE=0.8 trains on that share of the validation files where there are no
training files. For other choices call `ul2tune.prepare.skg_tasks.register_unifiedskg`.
"""

from __future__ import annotations

import os

from ul2tune.prepare.skg_tasks import DEFAULT_RUN, register_unifiedskg

folder = os.environ.get("UL2TUNE_UNIFIEDSKG")
if not folder:
    raise ValueError(
        "tasks.unifiedskg needs your copies of the data sets: set the environment variable "
        "UL2TUNE_UNIFIEDSKG to the folder that holds wikitq_dev.jsonl, spider/ and so on."
    )
register_unifiedskg(
    folder,
    config=os.environ.get("UL2TUNE_UNIFIEDSKG_CONFIG") or DEFAULT_RUN,
    carve=float(os.environ.get("UL2TUNE_UNIFIEDSKG_CARVE") or 0.0),
)
