"""UnifiedSKG's tasks over your own copies of their files (docs/unifiedskg.md has the layout).

    UL2TUNE_UNIFIEDSKG=/data/unifiedskg ul2tune prepare --gin_file=data/unifiedskg.gin …

registers `unifiedskg_wikitq`, `_tab_fact`, `_dart`, `_spider`, `_multiwoz`, as far as their files
are there, and the mixtures

    unifiedskg        training, n^(1/2)
    unifiedskg_eval   their validation splits

UL2TUNE_UNIFIEDSKG_CONFIG names a configuration file of UnifiedSKG instead of the default run;
UL2TUNE_UNIFIEDSKG_CARVE=0.8 trains on that share of the validation files where there are no
training files; `UL2TUNE_VOCABULARY` names the model's vocabulary. For other choices call
`ul2tune.prepare.skg_tasks.register_unifiedskg`.
"""

from __future__ import annotations

import os

from ul2tune.prepare import environment
from ul2tune.prepare.skg_tasks import DEFAULT_RUN, register_unifiedskg

register_unifiedskg(
    environment.folder("UL2TUNE_UNIFIEDSKG", "wikitq_dev.jsonl, spider/ and so on"),
    config=os.environ.get("UL2TUNE_UNIFIEDSKG_CONFIG") or DEFAULT_RUN,
    carve=environment.number("UL2TUNE_UNIFIEDSKG_CARVE", 0.0),
    vocabulary=environment.vocabulary(),
)
