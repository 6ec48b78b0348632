"""FLAN 2021 and Flan 2022 over your own copies of patterns and rows.

    UL2TUNE_FLAN=/data/flan UL2TUNE_SUPERNI=/data/natural-instructions \
    ul2tune prepare --gin_file=data/flan2022.gin …

registers, as far as the folder has their patterns and rows (`ul2tune.prepare.flan_tasks` says how
it is laid out):

    flan2022                      the five sub-mixtures at the authors' rates; each is a mixture
                                  of its own: flan2022.cot, flan2022.flan2021.zs_opt, …
    flan2021                      examples-proportional with a cap of 3,000
    flan2021_inter_<cluster>_train, …_eval     a cluster held out with its relatives
    flan2021_intra_<0…9>_train, …_eval         a task of every cluster held out

UL2TUNE_FLAN_COMPAT=1 reproduces the authors' quirks (docs/flan.md). UL2TUNE_SUPERNI is only needed
for the sub-mixture of Natural Instructions. For other choices write a module that calls
`register_flan2021` and `register_flan2022`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ul2tune.prepare import environment
from ul2tune.prepare.flan_tasks import (
    FLAN2021_PATTERNS,
    FLAN2022_PATTERNS,
    Flan2022Options,
    register_flan2021,
    register_flan2022,
)

folder = os.environ.get("UL2TUNE_FLAN")
present = [
    name for name in (FLAN2021_PATTERNS, FLAN2022_PATTERNS) if (Path(folder or "") / name).is_file()
]
if not folder or not present:
    raise ValueError(
        f"tasks.flan needs FLAN's patterns and your rows: set the environment variable "
        f"UL2TUNE_FLAN to the folder that has {FLAN2021_PATTERNS} or {FLAN2022_PATTERNS} in it "
        f"(it is {folder!r})."
    )
compat = os.environ.get("UL2TUNE_FLAN_COMPAT", "0")
if compat not in ("0", "1"):
    raise ValueError(f"UL2TUNE_FLAN_COMPAT is {compat!r}; use 0 or 1.")
if FLAN2022_PATTERNS in present:
    register_flan2022(
        folder,
        natural_instructions=os.environ.get("UL2TUNE_SUPERNI"),
        options=Flan2022Options(compat=compat == "1", vocabulary=environment.vocabulary()),
    )
if FLAN2021_PATTERNS in present and not (Path(folder) / "flan2021").is_dir():
    print(f"Note: no mixture flan2021: there are no rows in {folder}/flan2021.", file=sys.stderr)
elif FLAN2021_PATTERNS in present:
    register_flan2021(
        folder,
        marked=compat == "1",
        compat=compat == "1",
        vocabulary=environment.vocabulary(),
    )
