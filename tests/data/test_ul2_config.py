"""Denoising mixtures as data: presets, JSON, and what is refused."""

import dataclasses
import json

import pytest

from ul2tune.data.ul2 import MODE_TEXTS, PRESETS, Denoiser, UL2Config, preset

SPAN = {"name": "R", "kind": "span", "mean_span": 3.0, "rate": 0.15}
PREFIX = {"name": "S", "kind": "prefix", "rate": 0.25}


def table(name: str) -> list[tuple]:
    config = PRESETS[name]
    return [
        (d.kind, d.mean_span, d.rate, d.mode, round(p, 6))
        for d, p in zip(config.denoisers, config.probabilities, strict=True)
    ]


def test_ul2_is_table_1_of_the_paper():
    seventh = round(1 / 7, 6)
    assert table("ul2") == [
        ("span", 3.0, 0.15, "R", seventh),
        ("span", 8.0, 0.15, "R", seventh),
        ("prefix", None, 0.25, "S", seventh),
        ("span", 3.0, 0.5, "X", seventh),
        ("span", 8.0, 0.5, "X", seventh),
        ("span", 64.0, 0.15, "X", seventh),
        ("span", 64.0, 0.5, "X", seventh),
    ]


def test_other_presets_are_what_their_sources_say():
    shares: dict[str, float] = {}
    for _, _, _, mode, share in table("ul2_community"):
        shares[mode] = round(shares.get(mode, 0) + share, 6)
    assert shares == {"R": 0.4, "X": 0.4, "S": 0.2}
    assert table("ul2r") == [
        ("span", 3.0, 0.15, "R", 0.25),
        ("span", 32.0, 0.15, "X", 0.125),
        ("span", 3.0, 0.5, "X", 0.125),
        ("prefix", None, 0.5, "S", 0.5),
    ]
    assert table("t5gemma2") == [
        ("span", 3.0, 0.15, None, 0.125),
        ("span", 12.0, 0.5, None, 0.125),
        ("span", 32.0, 0.15, None, 0.125),
        ("span", 32.0, 0.5, None, 0.125),
        ("prefix", None, 0.75, None, 0.5),
    ]
    assert table("span_corruption") == [("span", 3.0, 0.15, None, 1.0)]
    assert PRESETS["span_corruption"].denoisers[0].placement == "tail"
    assert table("prefix_lm") == [("prefix", None, 0.5, None, 1.0)]
    assert table("causal_lm") == [("causal", None, 1.0, None, 1.0)]


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = PRESETS[name]
    assert UL2Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    if config.modes == {"R", "S", "X"}:
        for tokens in (MODE_TEXTS, {"R": (3, 4), "S": (5,), "X": (6,)}):
            changed = dataclasses.replace(config, mode_tokens=dict(tokens), targets_eos=False)
            assert UL2Config.from_json(json.loads(json.dumps(changed.to_json()))) == changed


def test_lists_become_tuples():
    config = UL2Config(denoisers=[Denoiser(**SPAN), Denoiser(**PREFIX)], rates=[1, 3])  # type: ignore
    assert config == UL2Config(denoisers=(Denoiser(**SPAN), Denoiser(**PREFIX)), rates=(1.0, 3.0))
    assert config.probabilities == (0.25, 0.75)


def test_denoisers_of_rate_zero_are_not_drawn():
    config = UL2Config(denoisers=(Denoiser(**SPAN), Denoiser(**PREFIX)), rates=(0, 3))
    assert config.drawn == (1,)
    assert PRESETS["ul2"].drawn == tuple(range(7))


def test_mode_texts_become_ids():
    config = dataclasses.replace(PRESETS["ul2r"], mode_tokens=MODE_TEXTS)
    tokenized = config.tokenize_modes(lambda text: [ord(c) for c in text])
    assert tokenized.mode_tokens is not None
    assert tokenized.mode_tokens["R"] == tuple(map(ord, "[NLU]"))
    assert tokenized.tokenize_modes(lambda text: [0]) == tokenized
    assert PRESETS["ul2"].tokenize_modes(lambda text: [0]) == PRESETS["ul2"]
    assert config.without_modes().modes == set()
    assert config.without_modes().mode_tokens is None


def test_wrong_names_get_the_nearest():
    assert preset("ul2") is PRESETS["ul2"]
    with pytest.raises(
        ValueError, match=r"no UL2 preset 'ulr2' \(did you mean 'ul2.*'\?\); there are ul2, "
    ):
        preset("ulr2")
    with pytest.raises(ValueError, match=r"no UL2 preset 'zzz'; there are ul2, "):
        preset("zzz")
    assert PRESETS["ul2"].index("X3") == 5
    with pytest.raises(ValueError, match="No denoiser is called 'Y1'"):
        PRESETS["ul2"].index("Y1")
    data = PRESETS["ul2r"].to_json()
    with pytest.raises(ValueError, match=r"no field 'rate' \(did you mean 'rates'"):
        UL2Config.from_json({**data, "rate": 1})
    bad = [data["denoisers"][0], {**data["denoisers"][1], "men_span": 3}]
    with pytest.raises(ValueError, match=r"denoisers\[1\] has no field 'men_span' \(did you mean"):
        UL2Config.from_json({**data, "denoisers": bad})
    with pytest.raises(ValueError, match=r"denoisers\[0\] lacks the field 'kind'"):
        UL2Config.from_json({"denoisers": [{"name": "R"}]})
    with pytest.raises(ValueError, match="lacks the field 'denoisers'"):
        UL2Config.from_json({})
    with pytest.raises(ValueError, match="must be a JSON object, got 'R'"):
        UL2Config.from_json({"denoisers": ["R"]})
    for value in (7, None, "R", {}):
        with pytest.raises(ValueError, match=f"denoisers = {value!r}: it must be a list"):
            UL2Config.from_json({"denoisers": value})
    with pytest.raises(ValueError, match=r"mode_tokens\['R'\] = 5: it must be a list"):
        UL2Config.from_json({"denoisers": [{**SPAN, "mode": "R"}], "mode_tokens": {"R": 5}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**SPAN, "name": ""}, "needs a name"),
        ({**SPAN, "kind": "mask"}, "kind='mask': use one of span, prefix, causal"),
        ({**SPAN, "placement": "left"}, "placement='left': use one of random, tail, roll"),
        ({**PREFIX, "pivot": "middle"}, "pivot='middle': use one of uniform"),
        ({**SPAN, "rate": 0.0}, "rate=0.0: give a fraction between 0 and 1"),
        ({**PREFIX, "rate": 1.0}, "rate=1.0: give a fraction between 0 and 1"),
        ({**SPAN, "rate": float("nan")}, "rate=nan"),
        ({**SPAN, "rate": "x"}, "rate='x': give a number"),
        ({"name": "C", "kind": "causal", "rate": 0.5}, "a causal denoiser predicts all"),
        ({**SPAN, "mean_span": None}, "mean_span=None: give a mean of at least 1"),
        ({**SPAN, "mean_span": 0.5}, "mean_span=0.5"),
        ({**SPAN, "mean_span": float("inf")}, "mean_span=inf"),
        ({**SPAN, "max_spans": 0}, "max_spans=0: allow an integer of at least 1"),
        ({**SPAN, "max_spans": 2.0}, "max_spans=2.0: allow an integer of at least 1"),
        ({**SPAN, "mode": 5}, "mode=5: give a text such as 'R', or None"),
        ({**PREFIX, "sentinel": "no"}, "sentinel='no': give True or False"),
        ({**PREFIX, "mean_span": 3.0}, "mean_span=3.0: only kind='span' uses it"),
        ({**PREFIX, "placement": "roll"}, "placement='roll': only kind='span' uses it"),
        ({**PREFIX, "max_spans": 3}, "max_spans=3: only kind='span' uses it"),
        ({**SPAN, "pivot": "fixed"}, "pivot='fixed': only kind='prefix' uses it"),
        ({**SPAN, "sentinel": True}, "sentinel=True: only kind='prefix' uses it"),
        ({**PREFIX, "pivot_std": 0.1}, "pivot='uniform' does not use it"),
        ({**PREFIX, "pivot": "truncated_normal"}, "pivot_std=None: a truncated_normal pivot needs"),
    ],
)
def test_wrong_denoisers_are_refused(fields, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked below)
        Denoiser(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"denoisers": ()}, "no denoisers"),
        ({"denoisers": (Denoiser(**SPAN), Denoiser(**SPAN))}, "names must be distinct"),
        ({"rates": (1.0, 2.0)}, "2 rates (1.0, 2.0) for 1 denoisers ['R']"),
        ({"rates": (-1.0,)}, "none may be negative"),
        ({"rates": (0.0,)}, "one must be positive"),
        ({"rates": (float("nan"),)}, "none may be negative"),
        ({"rates": ("a",)}, "rates ('a',): give numbers"),
        ({"rates": 1.0}, "rates = 1.0: it must be a list"),
        ({"denoisers": ("R",)}, "'R' among its denoisers"),
        ({"inputs_eos": "false"}, "inputs_eos='false': give True or False"),
        ({"targets_eos": 0}, "targets_eos=0: give True or False"),
        ({"mode_tokens": {"X": (5,)}}, "mode_tokens for ['X'], which no denoiser announces"),
        ({"mode_tokens": {"R": ("5",)}}, "mode_tokens['R'] = ('5',): give integer ids, or a text"),
        ({"mode_tokens": "R"}, "mode_tokens 'R': give ids or a text by mode"),
    ],
)
def test_wrong_mixtures_are_refused(fields, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked below)
        UL2Config(**{"denoisers": (Denoiser(**SPAN, mode="R"),), **fields})
    assert message in str(caught.value)
