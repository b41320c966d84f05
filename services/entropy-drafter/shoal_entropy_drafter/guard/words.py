"""What the guard knows of words: tables, and nothing but tables.

Every entry of a table that makes words equal is a chance to be wrong; one that is missing costs a
draft. `start` is not `finish` and `remove` not `delete` (ask git), so few pairs are here.
"""

from __future__ import annotations

from collections.abc import Mapping


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(line.split()) for line in text.strip().splitlines())


def _pairs(text: str) -> frozenset[tuple[str, str]]:
    halves = (pair.partition("/") for pair in text.split())
    return frozenset((one, other) for one, _, other in halves)


def _same(lines: str) -> Mapping[str, str]:
    """Each word of a line stands for its first."""
    rows = (line.split() for line in lines.strip().splitlines())
    return {word: row[0] for row in rows for word in row[1:]}


QUESTION_WORDS = _set("what how where when why who whom whose which")
COPULAS = _set("is are was were")
AUXILIARIES = COPULAS | _set(
    "am do does did can could should would will must may might has have had shall need"
)
ASKING = QUESTION_WORDS | AUXILIARIES
PREPOSITIONS = _set(
    "in on at for with without to from by of about before after during under over through into "
    "against between since until within inside outside near via per"
)
CONJUNCTIONS = _set("if when while because before after since once unless although")
FRONTING = PREPOSITIONS | CONJUNCTIONS
ARTICLES = _set("a an the")
SUBJECT_STARTS = ARTICLES | _set(
    "i we he she it they one this that these those my your his her its our their"
)
# In a text with one of these, a part of it may speak of another part.
RELATIVE = _set("that which who whom whose if whether when while because and or but not than as")

# What stands between two places says more than where a journey goes.
LOOSE = PREPOSITIONS | RELATIVE | AUXILIARIES

# A text about wording keeps every `please`.
WORDING = _set(
    "say says said saying translate translation mean means meaning word words phrase phrases spell "
    "spelling pronounce type repeat print echo sentence text letter letters character "
    "characters line rhyme synonym synonyms quote"
)
IMPERATIVES = _set(
    "write explain translate summarize summarise list give show describe convert calculate compute "
    "solve find compare generate create define tell name suggest recommend draft rewrite correct "
    "draw plan sort count outline simplify prove estimate recite paraphrase classify proofread"
)
TOLD = ASKING | IMPERATIVES | {"steps"}
# Behind `could you` nobody asks with these whether something can be done.
REQUESTED = _set(
    "write explain translate summarize summarise describe tell give rewrite draft paraphrase "
    "proofread"
)
# After `how do I` these ask for a state, not for a way.
STATES = _set(
    "look feel sound seem appear compare rank fit fare come do differ matter relate mean count "
    "rate stand affect impact influence die"
)

# `a few` is not `few`.
COUNTED = _set("few little lot bit couple dozen hundred thousand million")

GREETINGS = _phrases("""
hi
hello
hey
hi there
hello there
hey there
good morning
good afternoon
good evening
excuse me
greetings
dear assistant
""")

# Nothing at all before a comma.
INTERJECTIONS = _phrases("""
so
um
uh
well
okay
ok
okay so
ok so
by the way
anyway
basically
""")

# Before a question, they ask for nothing more than the question does.
LEADS = _phrases("""
any idea
quick question
question
i have a question
i have a quick question
just out of curiosity
out of curiosity
just wondering
please
tell me
explain
explain to me
show me
i would like to know
i would love to know
i would like to ask
i want to know
i want to ask
i need to know
i wonder
i was wondering
i am wondering
i am curious
can i ask
could i ask
may i ask
can you tell me
could you tell me
would you tell me
will you tell me
can you explain
could you explain
would you explain
can you explain to me
could you explain to me
can you show me
could you show me
can anyone tell me
can anybody tell me
can someone tell me
could anyone tell me
could someone tell me
could somebody tell me
would you mind telling me
would you mind explaining
would you be so kind as to tell me
would you be so kind as to explain
""")

# Before `who you are` they ask what is known, before `how to` for the way.
KNOWING = _phrases("""
do you know
do you happen to know
does anyone know
does anybody know
""")
LEAD_WORDS_MAX = max(map(len, LEADS | KNOWING))

# Whole sentences before a question that add nothing to it.
OPENINGS = _phrases("""
i have a question
i have a quick question
quick question
i need help
i need some help
i need your help
please help
please help me
can you help me
could you help me
sorry to bother you
""")
COURTESY_WORDS_MAX = max(map(len, GREETINGS | OPENINGS | INTERJECTIONS))

# After a comma or a sentence's end.
CLOSINGS = _phrases("""
please
thanks
thank you
many thanks
thanks a lot
thank you very much
thank you so much
thanks in advance
thank you in advance
thanks in advance for your help
thank you for your help
cheers
""")
CLOSING_WORDS_MAX = max(map(len, CLOSINGS))

HOW_TO = "how-to"
IS_POSSIBLE = "is-possible"
OPENERS: Mapping[tuple[str, ...], str] = {
    **dict.fromkeys(
        _phrases("""
how do i
how can i
how could i
how does one
how can one
how could one
how to
what is the way to
what is a way to
what do i need to do to
what do i have to do to
what are the steps to
what are the steps to take to
what steps do i take to
steps to
"""),
        HOW_TO,
    ),
    **dict.fromkeys(
        _phrases("""
is it possible to
is there a way to
is there any way to
would it be possible to
"""),
        IS_POSSIBLE,
    ),
}
OPENER_WORDS_MAX = max(map(len, OPENERS))

_NOT = "is are was were do does did has have had could would should must need might"
CONTRACTIONS: Mapping[str, tuple[str, ...]] = {
    **{f"{word}n't": (word, "not") for word in _NOT.split()},
    **{f"{word}nt": (word, "not") for word in ("do", "does", "did", "is", "could", "would")},
    "can't": ("can", "not"),
    "cannot": ("can", "not"),
    "cant": ("can", "not"),  # codespell:ignore
    "won't": ("will", "not"),
    "shan't": ("shall", "not"),
    "i'm": ("i", "am"),
    "i've": ("i", "have"),
    "i'll": ("i", "will"),
    **{f"{who}'re": (who, "are") for who in ("you", "we", "they")},
    **{f"{who}'ve": (who, "have") for who in ("you", "we", "they")},
    **{f"{who}'ll": (who, "will") for who in ("you", "we", "they", "he", "she", "it", "what")},
}
# `who's` may be `who has`: only before a word that cannot follow `has`.
COPULA_CONTRACTIONS: Mapping[str, str] = {
    f"{word}'s": word for word in _set("what who where how when why it that there he she here")
} | {"whats": "what", "hows": "how", "wheres": "where"}  # codespell:ignore
PARTICIPLES = _set(
    "been got gone done become had made come begun taken won lost written given left cut set put "
    "hit read seen known said heard paid sold told found kept held met led sent spent built bought "
    "brought thought taught caught fought felt let shut hurt cost quit spread run broken chosen "
    "driven eaten fallen forgotten frozen hidden ridden risen shown spoken stolen thrown worn "
    "drunk sung swum grown flown drawn"
)

SYNONYMS: Mapping[str, str] = _same("""
picture image
pictures images
bigger larger
biggest largest
child kid
children kids
fast quickly rapidly
physician doctor
physicians doctors
lawyer attorney
lawyers attorneys
mother mom mum
father dad
television tv
couch sofa
taxi cab
luggage baggage
famous well-known
almost nearly
happen occur
happens occurs
often frequently
perhaps maybe
wealthy rich
incorrect wrong
car automobile
cars automobiles
allowed permitted
forbidden prohibited
email e-mail
emails e-mails
wifi wi-fi
online on-line
grey gray
colour color
colours colors
centre center
favourite favorite
licence license
theatre theater
catalogue catalog
behaviour behavior
aluminium aluminum
""")
# Only where somebody does it: `what does begin do` is not `what does start do`.
VERBS: Mapping[str, str] = _same("""
buy purchase
begin start commence
fix repair
terminate end
compute calculate
obtain get
need require
attempt try
help assist
organise organize
summarise summarize
analyse analyze
optimise optimize
recognise recognize
""")
VERB_PAIRS: Mapping[tuple[str, str], str] = {
    ("turn", "on"): "enable",
    ("switch", "on"): "enable",
    ("turn", "off"): "disable",
    ("switch", "off"): "disable",
}
DOERS = _set("i you we they he she to") | {HOW_TO, IS_POSSIBLE}
# Where words themselves are asked about, none stands for another.
TERMS = WORDING | _set(
    "keyword keywords command commands function functions method methods statement statements "
    "clause operator operators element elements tag tags attribute property define defines "
    "definition difference differences differ versus vs between compare called term terms verb "
    "noun adjective title titled label labelled labeled button sql code"
)

# Words that mean something else with a capital, where the rest of the text gives no hint.
AMBIGUOUS = _set(
    "us it who polish turkey china apple march august python java swift go rust ruby mercury bill "
    "mark rose amazon oracle windows word excel outlook teams pages numbers access edge chrome "
    "safari notion slack zoom square stripe target gap shell orange subway jack grace hope faith "
    "joy frank rob sue pat art gene dick chase hunter grant drew miles dean wade aids cat spring "
    "steam signal discord basic ada pascal cobol perl julia scheme meta visa delta dove tide "
    "jordan chad mali chile georgia nice reading bath cork hamilton lima phoenix buffalo mobile "
    "lent god earth sun moon internet state congress catholic liberal republican democrat "
    "conservative titanic oscar tony emmy globe times post guardian economist nature science cell "
    "ram rom pet pin sim sat act gas led ice hiv ai or in me ok ms pa ma pm am id la al de co"
)
BRANDS = _set(
    "youtube iphone ipad macos ios github gitlab javascript typescript paypal whatsapp linkedin "
    "macbook powerpoint onedrive onenote wordpress openai chatgpt mysql postgresql mongodb "
    "chromeos freebsd libreoffice centos opensuse airpods itunes icloud ebay tiktok facetime "
    "sharepoint"
)

NEGATIONS = _set(
    "not no never without none neither nor nothing nobody nowhere cannot hardly except unless ain't"
)
OPPOSITES = _pairs(
    "enable/disable install/uninstall ascending/descending before/after minimum/maximum min/max "
    "first/last increase/decrease import/export more/less with/without open/close encrypt/decrypt "
    "connect/disconnect start/stop begin/stop on/off up/down left/right top/bottom high/low "
    "higher/lower longest/shortest longer/shorter best/worst better/worse early/late earlier/later "
    "buy/sell lend/borrow win/lose add/remove include/exclude accept/reject allow/forbid push/pull "
    "upload/download read/write show/hide lock/unlock public/private input/output inner/outer "
    "in/out big/small largest/smallest bigger/smaller fast/slow faster/slower cheap/expensive "
    "hot/cold always/never all/none legal/illegal valid/invalid possible/impossible safe/unsafe "
    "healthy/unhealthy mutable/immutable regular/irregular known/unknown true/false "
    "follow/unfollow zip/unzip mute/unmute subscribe/unsubscribe freeze/thaw arrive/leave "
    "arrival/departure positive/negative odd/even north/south east/west old/new oldest/newest "
    "loud/quiet thicker/thinner least/most above/below"
)
LANGUAGE_NAMES = _set(
    "english french german spanish italian dutch portuguese swedish polish greek turkish japanese "
    "korean arabic hindi finnish czech chinese mandarin cantonese russian ukrainian danish "
    "norwegian hungarian romanian bulgarian croatian serbian hebrew persian farsi urdu bengali "
    "tamil thai vietnamese indonesian malay swahili latin catalan basque welsh irish deutsch "
    "français español italiano"
)
STOP_WORDS: Mapping[str, frozenset[str]] = {
    "en": _set(
        "the of how what do does did my i is are to with and can could should why where which who "
        "when for on it that this you your please there be been have has not from or at by if will "
        "would an about into give tell explain write translate describe"
    ),
    "de": _set(
        "der die das und ist oder ich wie was wo wer warum "  # codespell:ignore
        "ein eine einen nicht mit für auf zu von den dem des kann mein meine bitte wann welche "
        "sind auch im am bei nach"
    ),
    "fr": _set(
        "le la les un une des et est je comment quoi où qui pourquoi ne pas avec pour sur de du au "
        "mon ma mes quel quelle quels dans que s'il vous c'est l'on était peut puis"
    ),
    "es": _set(
        "el la los las un una y es yo mi mis "  # codespell:ignore
        "cómo qué dónde quién por no con para de del al cuál cuánto cuánta cuándo en que se puedo "
        "fue son está"
    ),
    "it": _set(
        "il lo la gli le un una e è io come che dove chi perché non con per di del della al mio "
        "mia quale quanto quando posso sono nel si bere"
    ),
    "pt": _set(
        "o os as um uma e é eu meu minha "  # codespell:ignore
        "como que onde quem não com para de do da ao qual quanto quando posso são no na em"
    ),
    "nl": _set(
        "de het een en ik hoe wat waar wie waarom niet met voor op van mijn kan welke zijn dat dit "
        "wanneer te bij naar"
    ),
}
LANGUAGES: Mapping[str, tuple[str, ...]] = {
    word: tuple(code for code, stop_words in STOP_WORDS.items() if word in stop_words)
    for word in frozenset().union(*STOP_WORDS.values())
}
