"""Modules that do with attention something of their own: found as their forward uses them, or said."""

from __future__ import annotations

import pytest

from tests.inspection.test_patterns import report

E = 48
Shapes = dict[str, tuple[int, ...]]

_MOMENTS: dict[str, Shapes] = {
    "means": {f"vae.{part}_mu.weight": (32, E) for part in "qkv"},
    "means and spreads": {f"enc.{part}_{what}.weight": (32, E) for part in "qkv" for what in ("mu", "logvar")},
    "in words": {
        f"enc.{part}_{what}.weight": (32, E) for part in ("query", "key", "value") for what in ("mean", "std")
    },
    "a word behind": {f"enc.fc_{part}_sigma.weight": (32, E) for part in "qkv"},
    "a module each": {f"enc.{part}.{what}.weight": (32, E) for part in "qkv" for what in ("mean", "std")},
}


@pytest.mark.parametrize("shapes", _MOMENTS.values(), ids=_MOMENTS)
def test_moments_of_a_distribution_are_no_projections(shapes: Shapes) -> None:
    told = report(shapes)
    assert told.attentions == ()
    assert told.account is not None
    assert told.account.unrecognised == ()


def test_moments_in_attention_are_said() -> None:
    told = report({f"attn.{part}_mu.weight": (32, E) for part in "qkv"})
    assert told.attentions == ()
    assert told.account is not None
    assert [one.why.partition(":")[0] for one in told.account.unrecognised] == ["the words are those of a distribution"]


def test_maac_s_critic_has_a_selector_for_a_query() -> None:
    """Actor-attention-critic (MAAC, utils/critics.py): lists of key, selector and value extractors, one a head."""
    shapes = {
        f"critic.{word}_extractors.{head}.{inner}weight": (32, 128)
        for word, inner in (("key", ""), ("selector", ""), ("value", "0."))
        for head in range(4)
    }
    (attention,) = report(shapes).attentions
    assert attention.heads is not None
    assert (attention.layer, attention.heads.num_heads, attention.heads.head_dim) == ("critic", 4, 32)
    query = attention.part("q")
    assert query is not None
    assert query.weight.name == "critic.selector_extractors.*.weight"


def test_outlook_attention_is_said() -> None:
    """timm/models/volo.py, OutlookAttention: ``attn`` makes the weights of the token itself, and ``v`` the values."""
    at = "network.0.0.attn"
    told = report({f"{at}.v.weight": (E, E), f"{at}.attn.weight": (486, E), f"{at}.proj.weight": (E, E)})
    assert told.account is not None
    assert [(one.module, "outlook" in one.why) for one in told.account.unrecognised] == [(at, True)]
