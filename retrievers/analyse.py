"""Text to the terms of lexical search. Knows words, stems and stop words; knows no index and no score.

Documents and queries go the same way: NFKC and case folding, then words, then terms. A *word* is a run of letters, digits
and marks with the runs that a connector ties to it (``foo_bar``, ``e-mail``, ``v1.2.3``, ``C++``, ``o'brien``). It gives

- its parts, stemmed by Snowball (https://snowballstem.org), and
- if it has several parts or ends in ``++`` or ``#``, the whole as well, so that an exact name beats its parts. In the whole,
  hyphens next to a letter are dropped (``e-mail`` finds ``email``), and the commas of ``1,000,000``; ``u.s.a`` is ``usa``.

Scripts written without spaces (Han, kana, Hangul, Thai, Lao, Khmer, Burmese) give overlapping pairs of characters, or the
single character when it stands alone. Stop words are indexed like all words; a query leaves them out unless it has no others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from typing import Any

from rag.errors import ConfigError

ANALYSIS_VERSION = 1
"""Part of every index fingerprint: raise it when the same text gives other terms."""

MAX_TERM_CHARS = 128
_MAX_REMEMBERED_WORDS = 1 << 18

_TO_SPACES = str.maketrans({character: " " for character in "'.-@&+_,#"})
_SPELLINGS = {"\u2019": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-", "\u00ad": ""}
_DROPPED_HYPHEN = re.compile(r"(?<=[^\W\d_])-|-(?=[^\W\d_])")
_GROUPED_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])+")
_UNSPACED = (
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\u3005-\u3007\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SCRIPT_RUNS = re.compile(f"[{_UNSPACED}]+|[^{_UNSPACED}]+")
_ANY_UNSPACED = re.compile(f"[{_UNSPACED}]")

_ELISIONS = {
    "french": re.compile(r"^(?:[ldcjmnst]|qu|jusqu|lorsqu|puisqu|quoiqu)'(?=\w)"),
    "catalan": re.compile(r"^[ldmnst]'(?=\w)"),
    "italian": re.compile(r"^(?:[lcdmnstv]|gl|un|(?:a|da|de|ne|su|co|que|be)ll|quest|sant|dov|tutt|mezz)'(?=\w)"),
}
_ENGLISH_CLITIC = re.compile(r"'(?:s|ll|re|ve|d|m)$")
_POSSESSIVE = re.compile(r"'s?$")

# Words that say how a sentence is built, not what it is about. Apostrophes are gone by then: "don't" is "dont".
STOP_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "english": """a about after again all also am an and any are as at be because been before being below between both
            but by can cannot cant could did didnt do does doesnt doing dont down during each eg etc few for from further had
            has have havent having he her here hers him his how i ie if in into is isnt it its itself just me more most my no
            nor not now of off on once only or other our out over own same she should so some such than that the their them
            then there these they this those through to too under until up very was wasnt we were what when where which while
            who whom whose why will with wont would you your yours""",
        "german": """aber alle allem allen aller alles als also am an auch auf aus bei beim bin bis bist da damit dann das dass
            dein deine dem den denn der des dessen die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem
            einen einer eines er es für hab habe haben hat hatte hatten hier ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in
            ist ja jede jedem jeden jeder jedes kann kein keine können man mein meine mit nach nicht noch nun nur ob oder ohne
            sehr sein seine seinem seinen seiner sich sie sind so über um und uns unter vom von vor wann war waren warum was
            weil welche welchem welchen welcher welches wenn wer werden wie wieso wir wird wo wurde wurden zu zum zur""",
        "french": """a ai ainsi alors au aucun aussi autre aux avait avec avez avoir car ce ceci cela celle celles celui ces cet
            cette ceux chez comme comment dans de des donc dont du elle elles en es est estce et eu eux fait il ils je la là le les
            leur leurs lui ma mais me même mes moi mon ne ni nos notre nous on ont ou où par pas peut plus pour pourquoi quand
            que quel quelle quelles quels qui quoi sa sans se sera ses si sont son sous suis sur ta te tes toi ton tous tout
            toute toutes très tu un une vos votre vous y à été être""",
        "spanish": """a al algo algunas algunos ante antes como con contra cual cuales cuando cuál cuáles cuándo cómo de del
            desde donde dónde dos durante e el él ella ellas ellos en entre era es esa esas ese eso esos esta estaba estas este
            esto estos está están fue fueron ha han hasta hay la las le les lo los me mi mis mucho muy más nada ni no nos
            nosotros o otra otro para pero poco por porque puede que quien quién qué se sea ser si sido sin sobre son su sus sí
            también te tiene todo todos tu tú un una unas uno unos y ya yo""",
        "italian": """a ad agli ai al alla alle allo anche c che chi ci come con cosa cui da dagli dai dal dalla dalle dei del
            della delle dello di dove e ed era essere fu gli ha hanno ho i il in io la le lei lo loro lui ma mi mia mio ne negli
            nei nel nella nelle nello noi non nostro o per perché più può qual quale quali quando quanto quella quelle quelli
            quello questa queste questi questo se si sia sono su sua sue sui sul sulla suo tra tu tutti tutto un una uno vi voi
            è""",
        "portuguese": """a ao aos as até com como da das de dela dele delas deles do dos e ela elas ele eles em entre era essa
            esse esta este está eu foi foram há isso isto já lhe mais mas me mesmo meu minha muito na nas nem no nos não nós o
            onde os ou para pela pelas pelo pelos por porque pode qual quais quando que quem se sem ser seu seus sua suas são só
            também te tem um uma você é à às""",
        "dutch": """aan al als bij dan dat de deze die dit doen door dus een en er ge geen had heb hebben heeft hem het hier hij
            hoe hun ik in is ja je kan kunnen maar me meer met mij mijn moet na naar niet nog nu of om omdat onder ons ook op
            over te tegen toch tot u uit uw van veel voor waar waarom wanneer want waren was wat we welk welke werd wie wij wil
            worden wordt ze zelf zich zij zijn zo zonder zou""",
        "swedish": """alla att av blev bli blir de dem den denna deras dess det detta dig din dina du där efter ej eller en er
            ett från för ha hade han hans har hon hur här i icke in inte jag kan man med men mig min mot mycket ni nu när någon
            något och om oss på sedan sig sin sina ska som så till under upp ut vad var varför vem vi vid vilka vilken vilket
            vill är över""",
    }.items()
}


# Possessive quantifiers: twice as fast, and a long row of connectors cannot make the pattern back off.
_ASCII_WORDS = re.compile(r"\w++(?:['.\-@&+,]\w++)*+(?:\+\+|#)?", re.ASCII)


@cache
def _unicode_words() -> re.Pattern[str]:
    # \w leaves out combining marks (vowel signs of Indic scripts, Arabic points), which would cut words of those scripts.
    marks = "".join(chr(point) for point in range(0x300, 0x10000) if unicodedata.category(chr(point))[0] == "M")
    run = rf"\w[\w{marks}]*+"
    return re.compile(rf"{run}(?:['.\-@&+,]{run})*+(?:\+\+|#)?")


class _Remembered(dict[str, tuple[str, ...]]):
    """Word -> terms, worked out at the first sight of a word; a missing word costs a call, a known one a look-up in C."""

    def __init__(self, analyse: Callable[[str], tuple[str, ...]]) -> None:
        super().__init__()
        self._analyse = analyse

    def __missing__(self, word: str) -> tuple[str, ...]:
        terms = self[word] = self._analyse(word)
        return terms

    def of(self, words: list[str]) -> Iterator[tuple[str, ...]]:
        if len(self) > _MAX_REMEMBERED_WORDS:
            self.clear()
        return map(self.__getitem__, words)


class Analyser:
    """Words and terms of one language.

    ``language``: a Snowball algorithm (``english``, ``german``, ...) or ``none`` (no stemming, no stop words).
    ``stop_words``: whether queries leave out stop words, for the languages in ``STOP_WORDS``. Raises ``ConfigError``.
    """

    def __init__(self, language: str = "english", *, stop_words: bool = True) -> None:
        import Stemmer

        algorithms = sorted(Stemmer.algorithms())
        if language != "none" and language not in algorithms:
            raise ConfigError(f"unknown language {language!r}; allowed: none, {', '.join(algorithms)}")
        self.language = language
        self.fingerprint = f"{ANALYSIS_VERSION}/{language}"
        self._stop_words = STOP_WORDS.get(language, frozenset()) if stop_words else frozenset()
        self._elision = _ELISIONS.get(language)
        self._clitic = _ENGLISH_CLITIC if language == "english" else _POSSESSIVE
        self._stem: Any = str
        if language != "none":
            stemmer = Stemmer.Stemmer(language, 0)  # no cache inside: terms are remembered per word below
            self._stem = stemmer.stemWord
            self.fingerprint += f"/snowball-{Stemmer.version().partition('.')[0]}"
        self._all_terms = _Remembered(lambda word: self._analyse(word)[0])
        self._query_terms = _Remembered(lambda word: self._analyse(word)[1])

    def words(self, text: str) -> list[str]:
        """The words of ``text`` in order, folded; ``terms_of`` takes them."""
        if text.isascii():
            return _ASCII_WORDS.findall(text.lower())
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        for found, spelling in _SPELLINGS.items():
            text = text.replace(found, spelling)
        return (_ASCII_WORDS if text.isascii() else _unicode_words()).findall(text)

    def terms_of(self, word: str) -> tuple[str, ...]:
        """The terms of one word, stop words too. No term is longer than ``MAX_TERM_CHARS``."""
        return self._analyse(word)[0]

    def terms(self, text: str) -> list[str]:
        """The terms of a document, repeated as often as they occur."""
        return list(chain.from_iterable(self._all_terms.of(self.words(text))))

    def query_terms(self, text: str) -> list[str]:
        """The terms of a query: without stop words, or with them if it has no others."""
        words = self.words(text)
        kept = list(chain.from_iterable(self._query_terms.of(words)))
        return kept or list(chain.from_iterable(self._all_terms.of(words)))

    def _analyse(self, word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """All terms of a word, and those that a query keeps."""
        if word.isascii() and word.isalnum():
            term = self._term(word)
            return (term,), (() if word in self._stop_words else (term,))
        if "'" in word:
            word = self._clitic.sub("", self._elision.sub("", word) if self._elision else word).replace("'", "")
        if _INITIALS.fullmatch(word):
            word = word.replace(".", "")
        parts = word.translate(_TO_SPACES).split()
        terms: list[str] = []
        kept: list[str] = []
        for part in parts:
            found = self._of_part(part)
            terms += found
            if part not in self._stop_words:
                kept += found
        if (len(parts) > 1 or word.endswith(("++", "#"))) and len(word) <= MAX_TERM_CHARS and not _ANY_UNSPACED.search(word):
            word = word.replace(",", "") if _GROUPED_NUMBER.fullmatch(word) else _DROPPED_HYPHEN.sub("", word.strip("_"))
            if "," not in word:  # the comma of "this,that" ties nothing
                terms.append(self._term(word))
                kept += [] if word in self._stop_words else terms[-1:]
        return tuple(terms), tuple(kept)

    def _of_part(self, part: str) -> list[str]:
        if part.isascii() or not _ANY_UNSPACED.search(part):
            return [self._term(part)]
        terms: list[str] = []
        for run in _SCRIPT_RUNS.findall(part):
            if not _ANY_UNSPACED.match(run):
                terms.append(self._term(run))
            elif len(run) == 1:
                terms.append(run)
            else:
                terms += [run[start : start + 2] for start in range(len(run) - 1)]
        return terms

    def _term(self, word: str) -> str:
        stem: str = self._stem(word[:MAX_TERM_CHARS])
        return stem or word[:MAX_TERM_CHARS]
