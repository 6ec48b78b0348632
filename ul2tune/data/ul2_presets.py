"""Published denoising mixtures by name. Each entry says where its numbers come from.

Sizes of spans are in tokens, rates in fractions of tokens; the modes are R (regular), S
(sequential) and X (extreme) denoising, announced by the ids the vocabulary reserves for them unless
`mode_tokens` says otherwise.

DIVERGES (all but `span_corruption`): spans lie anywhere in the segment (placement "random"). With
the released code's masks, which end every segment with noise, UL2's (64, .15) at 512 tokens is a
single span that is always the last 90 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ul2tune.data.ul2_config import Denoiser, UL2Config
from ul2tune.nearest import did_you_mean

# The texts that google/ul2 was trained and is prompted with (model card; U-PaLM, arXiv:2210.11399).
MODE_TEXTS: Mapping[str, str] = MappingProxyType({"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"})


def _span(name: str, mean_span: float, rate: float, mode: str | None, **more) -> Denoiser:
    return Denoiser(name=name, kind="span", mean_span=mean_span, rate=rate, mode=mode, **more)


def _prefix(name: str, rate: float, mode: str | None, **more) -> Denoiser:
    return Denoiser(name=name, kind="prefix", rate=rate, mode=mode, **more)


_R1, _R2 = _span("R1", 3.0, 0.15, "R"), _span("R2", 8.0, 0.15, "R")
_X1, _X2 = _span("X1", 3.0, 0.5, "X"), _span("X2", 8.0, 0.5, "X")
_X3, _X4 = _span("X3", 64.0, 0.15, "X"), _span("X4", 64.0, 0.5, "X")

PRESETS: Mapping[str, UL2Config] = MappingProxyType(
    {
        # UL2: Unifying Language Learning Paradigms (Tay et al. 2022, arXiv:2205.05131), Table 1,
        # all seven equally often. S is the table's (mean L/4, rate .25, 1 span).
        "ul2": UL2Config(denoisers=(_R1, _R2, _prefix("S", 0.25, "S"), _X1, _X2, _X3, _X4)),
        # The same denoisers as the SeqIO task files of community T5X runs mix them, Finnish-NLP's
        # and those after them: `rates=[.4/2]*2 + [.4/4]*4 + [.2]` (R .4, X .4, S .2), for which
        # they name section 4.5 of the paper. S is that of the paper's appendix 9.2 code, which is
        # T5's prefix_lm (cut anywhere).
        "ul2_community": UL2Config(
            denoisers=(_R1, _R2, _X1, _X2, _X3, _X4, _prefix("S", 0.5, "S")),
            rates=(0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.2),
        ),
        # UL2R (Tay et al. 2022, "Transcending scaling laws with 0.1% extra compute",
        # arXiv:2210.11399): S 50 %, R 25 % (mean 3, 15 %), X 25 % (mean 32 or rate 50 %); S cuts at
        # a random point.
        "ul2r": UL2Config(
            denoisers=(
                _span("R", 3.0, 0.15, "R"),
                _span("X_long", 32.0, 0.15, "X"),
                _span("X_dense", 3.0, 0.5, "X"),
                _prefix("S", 0.5, "S"),
            ),
            rates=(0.25, 0.125, 0.125, 0.5),
        ),
        # T5Gemma 2 (Zhang et al. 2025, arXiv:2512.14856): (3, .15) (12, .5) (32, .15) (32, .5) and
        # (3L/4, .75, 1 span) at 1:1:1:1:4; the report mentions no mode tokens.
        "t5gemma2": UL2Config(
            denoisers=(
                _span("span_3_15", 3.0, 0.15, None),
                _span("span_12_50", 12.0, 0.5, None),
                _span("span_32_15", 32.0, 0.15, None),
                _span("span_32_50", 32.0, 0.5, None),
                _prefix("prefix_75", 0.75, None),
            ),
            rates=(1.0, 1.0, 1.0, 1.0, 4.0),
        ),
        # T5 (Raffel et al. 2020, arXiv:1910.10683, §3.1.4; `span_corruption` of its repository):
        # mean 3, 15 %, masks exactly as T5 draws them.
        "span_corruption": UL2Config(
            denoisers=(_span("span_corruption", 3.0, 0.15, None, placement="tail"),)
        ),
        # T5 `prefix_lm` (the LM-adapted T5 1.1 checkpoints): cut anywhere with equal probability.
        "prefix_lm": UL2Config(denoisers=(_prefix("prefix_lm", 0.5, None),)),
        # Plain language modelling (T5 `lm`): empty inputs, all tokens are targets.
        "causal_lm": UL2Config(denoisers=(Denoiser(name="causal_lm", kind="causal"),)),
    }
)


def preset(name: str) -> UL2Config:
    """The preset called `name`.

    Raises:
      ValueError: if there is none; names the nearest.
    """
    if name not in PRESETS:
        raise ValueError(
            f"There is no UL2 preset {name!r}{did_you_mean(name, PRESETS)}; there are "
            f"{', '.join(PRESETS)}."
        )
    return PRESETS[name]
