"""What a text says, without how it is written: words for comparing rows, in any script."""

from __future__ import annotations

import re
import unicodedata
import zlib
from hashlib import blake2b

# Scripts without spaces between words are taken sign by sign: kana, CJK, Thai, Lao, Myanmar, Khmer.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+")
COMPARED = 1 << 18
"""Characters of a text whose words are compared with others'."""


def _set(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


# Words that ask or bind and do not say what about, in English, Vietnamese, Persian and some neighbours.
FUNCTION_WORDS = _set(
    "a an the and or but of in on at to for from by with about into as is are was were be been",
    "am do does did",
    "can could should would will shall may might must i me my we us our you your he she it its",
    "they them their",
    "this that these those there here what which who whom whose when where why how if then than",
    "so some any",
    "please tell give let s t re ll ve d m not no yes have has had get go want need like also",
    "just very more most",
    "là gì ở nào có thể tôi nên được không và của cho những các một thì mà bao nhiêu đâu khi",
    "như thế hãy ạ bạn",
    "mình với đến từ trong này đó sao vì cái xin ai sẽ đã đang cần muốn về tại",
    "چه چی کجا کی آیا در به از را که و است هست می من برای با این آن یک چیست کدام چطور چگونه",
    "باید توانم کنم ها های",
    "شما ما لطفا بگو کن شود دارد یا تا هم بر چرا",
    "le la les un une des du de et ou à au aux en dans sur pour par avec est sont que qui quoi",
    "quel quelle",
    "quels quelles où quand comment pourquoi je tu il elle nous vous ils elles mon ma mes dois",
    "puis peut",
    "der die das ein eine einen einem und oder in im auf zu für von mit ist sind was wer wo",
    "wann wie warum ich du",
    "er sie wir ihr mein kann soll",
    "el los las una unos y o a al en por para con es son qué que quién dónde cuándo cómo cuál",
    "yo tú",
)


def plain(text: str) -> str:
    """The text with one form for each letter, no case, and single spaces: equal texts compare equal."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def words(text: str) -> list[str]:
    """The words of a plain text, as far as it is compared, in order; signs one by one for scripts without spaces."""
    return _WORD.findall(text, 0, COMPARED)


def content_words(text: str) -> list[str]:
    """The words that say what a question is about: no function words, no English plural.

    All words, where nothing else is left.
    """
    found = words(text)
    kept = [_stem(word) for word in found if word not in FUNCTION_WORDS]
    return kept or found


def _stem(word: str) -> str:
    if len(word) > 3 and word[-1] == "s" and word[-2] not in "su" and word.isascii():
        return word[:-1]
    return word


def word_hashes(found: list[str], text: str) -> list[int]:
    """A 32-bit hash for each word; for a text without words, one for the text."""
    if not found:
        return [zlib.crc32(text.encode("utf-8", "replace"))]
    return [zlib.crc32(word.encode("utf-8", "replace")) for word in found]


def text_key(text: str) -> int:
    """A 64-bit hash of a plain text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")
