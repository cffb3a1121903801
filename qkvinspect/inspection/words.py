"""Recognise words for Q, K and V in components of names: ``fc_q``, ``toKeys``, ``w_vs``, ``txt_attn_qkv``.

A component is read once, however many tensors carry it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations

from qkvinspect.fast_dataclass import dataclass, replace
from qkvinspect.late_pattern import late_pattern

_TOKENS = late_pattern(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_FOREIGN = late_pattern(r"\d+|[^\W\d_]+")
"""The same where letters of other alphabets are among them, which are one word up to the next figure or sign."""

_SINGLE = {
    **dict.fromkeys(("q", "qs", "query", "queries", "querys", "qry"), "q"),
    **dict.fromkeys(("k", "ks", "key", "keys"), "k"),
    **dict.fromkeys(("v", "vs", "val", "vals", "value", "values"), "v"),
}
_QUERIES = """
    selector consulta abfrage anfrage requete requête zapros запрос запит domanda vraag zapytanie sorgu fraga fråga
    dotaz chaxun 查询 查詢 クエリ 쿼리 질의
"""
_KEYS = """
    clave chave chiave cle clé schluessel schlüssel klyuch ключ sleutel klucz anahtar nyckel klic klíč kunci jian
    键 鍵 キー 키
"""
_VALUES = """
    valor valore valeur wert znachenie значение значення waarde wartosc wartość deger değer varde värde hodnota nilai
    zhi 值 値 バリュー 값
"""
_LEADING = {
    **dict.fromkeys(_QUERIES.split(), "q"),
    **dict.fromkeys(_KEYS.split(), "k"),
    **dict.fromkeys(_VALUES.split(), "v"),
}
"""Words that stand for a part only where a component begins with them: MAAC's ``selector_extractors``, and those of
other languages."""

_STARTS = tuple(_LEADING)

_FUSED = {
    "".join(letters) + plural: "".join(letters)
    for kind in ("qkv", "kv", "qk")
    for letters in permutations(kind)
    for plural in ("", "s")
}
_GATED = {"".join(letters): "".join(letters) for more in "ugzo" for letters in permutations(f"qkv{more}")}
"""Those with a gate or the output projection, ``uvqk``, ``qkvo``: where these are differs from one repository to
another, so they are only said."""
_PARTS = {**_SINGLE, **_FUSED, **_GATED}

MORE = "+"
"""The letter for what a tensor holds beside Q, K and V: ``qkv_gate`` and ``qkv_mlp`` are ``qkv+``."""

_BESIDE = frozenset(["gate", "gates", "mlp", "ffn", "ff", "glu"])

_PREFIXES = ("linear", "lin", "proj", "conv", "fc", "to", "w")
_SUFFIXES = ("projection", "linear", "proj", "layer", "conv", "lin", "net", "mat", "w")
"""What is written together with such a word: ``wq``, ``toqueries``, ``qproj``."""

GENERIC = frozenset(
    {*_PREFIXES, *_SUFFIXES, "weight", "weights", "kernel", "dense", "fn", "transform", "matrix", "and", "c", "in"}
)
"""Words that say no more than that it is a projection."""

_NO_PROJECTION = """
    norm ln bn gn rms layernorm rmsnorm batchnorm groupnorm bias biases scale scales
    embed embeds embedding embeddings pos position positions positional rope rotary rel relative
    lora latent multiscale aggreg cache mask token tokens temperature logit logits
    codebook memory index indexer proto prototypes bank queue
    gate
"""
NO_PROJECTION = frozenset(_NO_PROJECTION.split())
"""Words of tensors that stand beside projections and are none, or that look values up."""

MOMENTS = frozenset(["mu", "sigma", "mean", "std", "stddev", "var", "variance", "logvar", "logstd", "loc"])
"""Words for what describes a distribution: ``q_mu`` beside ``k_mu`` is a posterior's mean, and no query."""

_NETWORKS = frozenset(["encoder", "decoder", "tower", "network", "backbone", "branch", "classifier", "critic", "actor"])
"""What is called ``encoder_q`` is a network and not a projection; ``encoder_q_proj`` and ``encoder_Wq`` are."""

_OUT = """
    o out output outputs wo unify unifyheads combine merge concat dense fc final
    salida saida saída sortie ausgabe uscita vyhod выход вихід uitvoer wyjscie wyjście cikis çıkış utgang vystup výstup
    keluaran shuchu 输出 輸出 出力 출력
"""
OUT_WORDS = frozenset(_OUT.split())
"""Words for the output projection."""

ATTENTION_WORDS = (
    *("attn", "attention", "atten", "mha", "msa", "mhsa", "sdpa", "att"),
    *("atencion", "atención", "atencao", "atenção", "attenzion", "aufmerksamkeit", "vnimanie", "внимани", "увага"),
    *("aandacht", "uwaga", "dikkat", "uppmarksamhet", "pozornost", "perhatian", "zhuyi", "注意", "어텐션", "주의"),
)
"""What the names of attention modules, or of what holds them, contain."""


_SHORT = frozenset({"sa", "ca", "mla", "mab"})
"""What few letters stand for it, as words of their own: latent attention, and the block of the Set Transformer."""

_OF_ATTENTION = frozenset({*ATTENTION_WORDS, *_SHORT})


@dataclass(frozen=True, slots=True)
class Word:
    """A word for Q, K and V, or some of them, in a component of a name.

    Attributes:
        parts: the letters that it stands for, in its own order: ``q``, ``kv``, ``kqv``; with ``MORE`` where it says
            that there is more.
        before: the words before it, in lower case.
        after: the words after it.
        spelling: the word itself, of which ``query``, ``key`` and ``value`` are one kind and ``q``, ``k`` and
            ``v`` another.
    """

    parts: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    spelling: str

    @property
    def affix(self) -> tuple[str, ...]:
        """What is left of the component without the word."""
        return (*self.before, "*", *self.after)

    @property
    def label(self) -> str:
        """What tells it from another of the same module, without words that any projection has."""
        return "_".join(word for word in (*self.before, *self.after) if word not in GENERIC)


@lru_cache(1 << 14)
def tokens(component: str) -> tuple[str, ...]:
    """The words of a component, in lower case: ``fc_q``, ``fcQ`` and ``FC-q`` are ``fc q``."""
    words = _TOKENS if component.isascii() else _FOREIGN
    return tuple(found.lower() for found in words.findall(component))


@lru_cache(1 << 14)
def word_of(component: str) -> Word | None:
    """The word for Q, K or V in a component, or None: ``queries_keys_values`` is one word."""
    if not set("qkvQKV").intersection(component) and not component.lower().startswith(_STARTS):
        return None
    words = tokens(component)
    said = words[words.index("to") :] if "to" in words else words  # emb_to_query is a query
    if len(said) < len(words) and words[0] in OUT_WORDS:  # output_to_query leads back
        return None
    more = len(words) > 1 and not _BESIDE.isdisjoint(words)
    if not NO_PROJECTION.isdisjoint(said) and not (more and NO_PROJECTION.isdisjoint({*said} - _BESIDE)):
        return None
    found = _first_word(words)
    if found is None or not more:
        return found
    if len(found.parts) == 3:
        return replace(found, parts=found.parts + MORE)
    return found if NO_PROJECTION.isdisjoint(said) else None


def _first_word(words: tuple[str, ...]) -> Word | None:
    """The first of some words, or several in a row, that stand for parts."""
    network = not _NETWORKS.isdisjoint(words) and GENERIC.isdisjoint(words)
    for start, word in enumerate(words):
        parts, stop = _PARTS.get(word) or (None if start else _LEADING.get(word)), start + 1
        if parts is None:
            glued = _glued(word)
            if glued is None:
                continue
            prefix, parts, suffix = glued
            return Word(parts, (*words[:start], *prefix), (*suffix, *words[stop:]), _spelling(word))
        if network:
            return None
        while len(parts) < 3:
            following = stop + (words[stop : stop + 1] == ("and",))
            other = _SINGLE.get(words[following]) if following < len(words) else None
            if other is None or other in parts:
                break
            parts, stop = parts + other, following + 1
        return Word(parts, words[:start], words[stop:], _spelling(word))
    return None


def _glued(word: str) -> tuple[tuple[str, ...], str, tuple[str, ...]] | None:
    """(prefix, parts, suffix) of words written together."""
    for prefix in _PREFIXES:
        rest = word.removeprefix(prefix)
        if rest != word and rest in _PARTS and (len(rest) > 1 or len(prefix) < 3):  # wq, but not link
            return (prefix,), _PARTS[word[len(prefix) :]], ()
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and word[: -len(suffix)] in _PARTS:
            return (), _PARTS[word[: -len(suffix)]], (suffix,)
    for suffix in _BESIDE:
        if len(parts := _PARTS.get(word.removesuffix(suffix), "")) == 3 and word.endswith(suffix):  # qkvff
            return (), parts + MORE, (suffix,)
    return None


def _spelling(word: str) -> str:
    """The kind of word: long or short."""
    return "long" if len(word) > 3 or word in ("key", "val") or word in _LEADING else "short"


@lru_cache(1 << 14)
def is_no_projection(component: str) -> bool:
    """Whether a component is that of a norm, a table or the like."""
    return not NO_PROJECTION.isdisjoint(tokens(component))


@lru_cache(1 << 14)
def speaks_of_attention(component: str) -> bool:
    """Whether a component of a path says that it belongs to attention."""
    lower = component.lower()
    return any(word in lower for word in ATTENTION_WORDS) or not _SHORT.isdisjoint(tokens(component))


@lru_cache(1 << 14)
def is_output(component: str) -> bool:
    """Whether a component is one of the names of an output projection."""
    words = tokens(component)
    if word_of(component) is not None or is_no_projection(component):
        return False
    if not OUT_WORDS.isdisjoint(words):
        return True
    said = tuple(word for word in words if not word.isdecimal() and word not in _OF_ATTENTION)  # attn1_proj, proj_2
    return said in (("proj",), ("linear",), ("projection",), ("c", "proj"))


@lru_cache(1 << 14)
def is_projection(component: str) -> bool:
    """Whether a component is the name of a projection of attention: into it or out of it."""
    return word_of(component) is not None or is_output(component)


@lru_cache(1 << 12)
def counts_heads(component: str) -> bool:
    """Whether what is numbered under a component are heads of attention: ``heads``, ``attn_heads``, ``head_``."""
    return tokens(component)[-1:] in (("heads",), ("head",))
